"""Findings as GitLab's code quality report: a JSON array, one entry a finding, each with a fingerprint of its own.

The format: docs.gitlab.com, "Code Quality", "Code Quality report format".
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from kto_data.finding import Severity
from kto_data.report.outcome import Outcome, spread

_MOST_ENTRIES = 5_000  # a merge request shows a few hundred at most
_SEVERITIES = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.INFO: "info"}


def gitlab_report(outcome: Outcome) -> str:
    """The report; of many findings the worst, some of each rule."""
    seen: Counter[str] = Counter()
    shares = spread(outcome.worst_first, _MOST_ENTRIES)
    entries: list[dict[str, Any]] = []
    for count in outcome.worst_first:
        for finding, _ in outcome.samples(count, shares[count.rule.code]):
            seen[finding.fingerprint] += 1
            # Records that are there twice have equal findings, and GitLab shows equal fingerprints once.
            name = f"{finding.fingerprint}\n{finding.location.path}\n{seen[finding.fingerprint]}"
            entries.append(
                {
                    "description": finding.message,
                    "check_name": f"{count.rule.code} {count.rule.name}",
                    "fingerprint": hashlib.blake2b(name.encode(), digest_size=16).hexdigest(),
                    "severity": _SEVERITIES[finding.severity],
                    "location": {
                        "path": outcome.relative(finding.location.path),
                        "lines": {"begin": finding.location.line or 1},
                    },
                }
            )
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"

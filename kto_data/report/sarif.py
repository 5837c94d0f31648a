"""Findings as SARIF 2.1.0 (OASIS): what GitHub's code scanning takes.

GitHub shows 5,000 results of a run and refuses a file of more than 25,000, so the worst are given, some of each rule;
the exact numbers stand in the properties of each rule.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from kto_data.finding import Finding, Severity
from kto_data.report.outcome import Outcome, spread
from kto_data.report.pages import rule_page
from kto_data.rules.base import AnyRule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_MOST_RESULTS = 5_000
_OF_URLS = "/:?#[]@!$&'()*+,;=%"  # what a URL is made of besides letters (RFC 3986)
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif_report(outcome: Outcome) -> str:
    """The report: one run, its rules with their pages, its results."""
    shares = spread(outcome.worst_first, _MOST_RESULTS)
    rules = [*outcome.validation.rules, *(rule for rule, _ in outcome.validation.skipped)]
    indices = {rule.code: index for index, rule in enumerate(rules)}
    results = [
        _result(outcome, finding, column, indices.get(finding.code))
        for count in outcome.worst_first
        for finding, column in outcome.samples(count, shares[count.rule.code])
    ]
    run = {
        "tool": {
            "driver": {
                "name": "ktodata",
                "version": outcome.run.version,
                "informationUri": "https://pypi.org/project/ktodata/",
                "rules": [_rule(outcome, rule) for rule in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True, "exitCode": outcome.exit_code}],
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, ensure_ascii=False) + "\n"


def _rule(outcome: Outcome, rule: AnyRule) -> dict[str, Any]:
    count = outcome.validation.counts.get(rule.code)
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.doc.partition("\n")[0]},
        "help": {"text": rule.doc, "markdown": rule_page(rule)},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["kto", "data"], "findings": count.count if count else 0},
    }


def _result(outcome: Outcome, finding: Finding, column: int | None, index: int | None) -> dict[str, Any]:
    where = finding.location
    path = outcome.relative(where.path)
    uri = quote(path, safe=_OF_URLS) if "://" in path else quote(path)
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if where.line is not None:
        physical["region"] = {"startLine": where.line, **({"startColumn": column} if column else {})}
    location: dict[str, Any] = {"physicalLocation": physical}
    if where.pointer:
        location["logicalLocations"] = [{"fullyQualifiedName": where.pointer}]
    return {
        "ruleId": finding.code,
        **({} if index is None else {"ruleIndex": index}),
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {"ktodata/v1": finding.fingerprint},
    }

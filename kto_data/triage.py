"""What becomes of a finding once it is made: its severity, and whether it is shown or only counted.

    Finding ─▶ Triage ─▶ Finding, or one more of a kind of `Hidden`

Nothing is dropped: whatever is not shown has its number in the report. Works in one process, in the order of the data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from kto_data.finding import Finding, Severity
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage

Take = Callable[[Finding], bool]
"""Whether a finding was known before; each known one is taken once, so that a second copy of it is new."""

_ABOUT_THE_RUN = frozenset(rule.code for rule in ALL_RULES if rule.stage is Stage.RUN)  # these are never hidden
_FAILURES = frozenset(rule.code for rule in ALL_RULES if rule.stage is Stage.RUN and rule.severity is Severity.ERROR)
"""What kept rows from being checked, which is an error whatever the user says."""


class Hidden(StrEnum):
    """Why a finding is counted without being shown; the words follow a number."""

    IGNORED = "ignored in their files"
    SUPPRESSED = "suppressed"
    BASELINE = "in the baseline"
    KNOWN = "known before"


@dataclass(frozen=True, slots=True)
class FileIgnore:
    """Rules that have nothing to say about the files that a pattern matches."""

    pattern: str
    codes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Findings that somebody has looked at and lives with, and why."""

    place: str  # where it is written down
    rule: str  # as it is written
    codes: frozenset[str]
    reason: str
    path: str = ""  # a pattern; empty for every file
    row: str = ""  # a record's id or hash, or a fingerprint; empty for every record
    expires: date | None = None  # the last day it holds

    def __str__(self) -> str:
        return " ".join(filter(None, (self.rule, self.path, self.row)))

    def covers(self, finding: Finding) -> bool:
        """Whether it is about this finding, expired or not."""
        return (
            finding.code in self.codes
            and (not self.row or self.row in (finding.record_id, finding.row_hash, finding.fingerprint))
            and (not self.path or path_matches(self.path, finding.location.path))
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """So many findings are put up with: a number, or a share of all rows."""

    number: float
    is_share: bool

    def is_passed(self, found: int, num_rows: int) -> bool:
        """Whether `found` is more than it."""
        return found > (self.number * num_rows if self.is_share else self.number)


@dataclass(frozen=True, slots=True)
class Threshold:
    """How many findings of a rule make a warning of it, and how many an error. Without `error` it never is one."""

    warn: Limit = Limit(0, False)
    error: Limit | None = None

    def severity(self, found: int, num_rows: int) -> Severity:
        """INFO where no more are found than are put up with."""
        if self.error is not None and self.error.is_passed(found, num_rows):
            return Severity.ERROR
        return Severity.WARNING if self.warn.is_passed(found, num_rows) else Severity.INFO


class Triage:
    """Sorts findings out as they come, and counts those it hides.

    `known`: what was found before, and under which word it is counted. `record` is told of every finding that neither
    a file nor a suppression takes away, known or not.
    """

    def __init__(
        self,
        *,
        severities: Mapping[str, Severity] | None = None,
        thresholds: Mapping[str, Threshold] | None = None,
        ignores: Sequence[FileIgnore] = (),
        suppressions: Sequence[Suppression] = (),
        known: Sequence[tuple[Hidden, Take]] = (),
        record: Callable[[Finding], None] | None = None,
        today: date | None = None,
    ) -> None:
        self.hidden: Counter[Hidden] = Counter()
        self.thresholds = {code: limit for code, limit in (thresholds or {}).items() if code not in _FAILURES}
        self._severities = {code: severity for code, severity in (severities or {}).items() if code not in _FAILURES}
        self._ignores = tuple(ignores)
        self._suppressions = tuple(suppressions)
        self._known = tuple(known)
        self._record = record
        self._today = today or date.today()
        self._used: set[Suppression] = set()
        self._ignored_codes = lru_cache(self._find_ignored_codes)

    def sort_out(self, findings: Iterable[Finding]) -> list[Finding]:
        """Those to be shown, as severe as the user says."""
        kept = []
        for finding in findings:
            verdict = self._judge(finding)
            if isinstance(verdict, Hidden):
                self.hidden[verdict] += 1
            else:
                kept.append(verdict)
        return kept

    def unused(self, codes: Iterable[str]) -> list[Suppression]:
        """The suppressions that nothing of this run needed, as far as one of their rules was among `codes`."""
        ran = frozenset(codes)
        return [entry for entry in self._suppressions if entry not in self._used and entry.codes & ran]

    def _judge(self, finding: Finding) -> Finding | Hidden:
        if finding.code not in _ABOUT_THE_RUN:
            if finding.code in self._ignored_codes(finding.location.path):
                return Hidden.IGNORED
            entry = next((entry for entry in self._suppressions if entry.covers(finding)), None)
            if entry is not None:
                self._used.add(entry)
                if entry.expires is None or self._today <= entry.expires:
                    return Hidden.SUPPRESSED
                told = f"{finding.message} (its suppression ended on {entry.expires}: {entry.reason})"
                finding = replace(finding, message=told)
            if self._record is not None:
                self._record(finding)
            for kind, take in self._known:
                if take(finding):
                    return kind
        severity = self._severities.get(finding.code, finding.severity)
        return finding if severity is finding.severity else replace(finding, severity=severity)

    def _find_ignored_codes(self, path: str) -> frozenset[str]:
        none: frozenset[str] = frozenset()
        return none.union(*(entry.codes for entry in self._ignores if path_matches(entry.pattern, path)))


def path_matches(pattern: str, path: str) -> bool:
    """Whether a file is meant by a pattern with `*`, `?`, `[…]` and `**`.

    A pattern with a slash is about the whole path, starting at the current folder; one without is about the name.
    """
    if "/" not in pattern:
        return fnmatchcase(os.path.basename(path), pattern)
    if "://" not in pattern:
        pattern, path = os.path.abspath(pattern), os.path.abspath(path)
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.replace("**/", ""))


def hidden_words(hidden: Mapping[Hidden, int]) -> str:
    """The numbers of what is not shown, such as "12 suppressed, 40 in the baseline"; empty where all is shown."""
    return ", ".join(f"{hidden[kind]:,} {kind.value}" for kind in Hidden if hidden.get(kind))

"""What a run of `ktodata validate` found: exact counts by rule and file, the first findings of each, the survey."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kto_data.finding import Finding, Severity
from kto_data.rules.base import AnyRule
from kto_data.survey import NO_SAMPLES, Survey
from kto_data.triage import Hidden

KEPT_PER_RULE = 10_000
"""Findings of a rule that are kept; the others are counted, so that memory does not grow with the defects."""


@dataclass(slots=True)
class RuleCount:
    """What one rule found. `findings` are the first of them, at most `KEPT_PER_RULE`."""

    rule: AnyRule
    by_severity: Counter[Severity] = field(default_factory=Counter)
    by_path: Counter[str] = field(default_factory=Counter)  # file -> findings
    num_rows: int = 0  # records with at least one finding; 0 of rules that look at the whole dataset
    findings: list[Finding] = field(default_factory=list)
    is_tolerated: bool = False  # no more were found than its threshold puts up with
    _last_place: tuple[str, int | None] = ("", None)

    @property
    def count(self) -> int:
        """All findings of the rule."""
        return self.by_severity.total()

    @property
    def severity(self) -> Severity:
        """The worst that the rule found."""
        return min(self.by_severity, key=lambda severity: severity.rank)

    def add(self, finding: Finding) -> None:
        """Count one finding; they must come in the order of the data."""
        self.by_severity[finding.severity] += 1
        self.by_path[finding.location.path] += 1
        place = (finding.location.path, finding.location.line)
        if finding.location.line is not None and place != self._last_place:
            self.num_rows += 1
            self._last_place = place
        if len(self.findings) < KEPT_PER_RULE:
            self.findings.append(finding)

    def set_severity(self, severity: Severity) -> None:
        """Make all findings equally severe."""
        self.by_severity = Counter({severity: self.count})
        self.findings = [replace(finding, severity=severity) for finding in self.findings]


@dataclass(slots=True)
class InputCount:
    """What was read of one input file."""

    path: str
    num_rows: int = 0  # blank lines are none
    num_rows_ok: int = 0  # rows without an error
    split: str = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a run found."""

    inputs: tuple[InputCount, ...]
    counts: dict[str, RuleCount]  # by code, those that found something
    rules: tuple[AnyRule, ...]  # that ran
    skipped: tuple[tuple[AnyRule, str], ...]  # selected rules that could not run, and why
    num_desirable: int
    num_undesirable: int
    hidden: Mapping[Hidden, int] = field(default_factory=dict)  # findings that are counted here alone
    survey: Survey = NO_SAMPLES  # what the samples that satisfy the schema are like

    @property
    def num_rows(self) -> int:
        """Rows of all inputs."""
        return sum(entry.num_rows for entry in self.inputs)

    @property
    def by_severity(self) -> Counter[Severity]:
        """Exact numbers of findings."""
        return sum((count.by_severity for count in self.counts.values()), Counter())

    def worst_first(self) -> list[RuleCount]:
        """The rules that found something: by severity, then by number, then by code."""
        return sorted(self.counts.values(), key=lambda c: (c.severity.rank, -c.count, c.rule.code))

    def fails(self, level: Severity) -> bool:
        """Whether anything was found that is as bad as `level` or worse, what thresholds put up with left out."""
        return any(
            severity.at_least(level)
            for count in self.counts.values()
            if not count.is_tolerated
            for severity in count.by_severity
        )

"""A finished run as every report takes it.

    Validation ─▶ Outcome ─▶ a report of any format

This is the border of the reports. Here content is blacked out where it must not be shown, and text is made such that
any file can hold it, so that no format has to think of either.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from kto_data import __version__
from kto_data.finding import Finding, Severity
from kto_data.locate import column
from kto_data.safe_text import writable
from kto_data.source import STDIN
from kto_data.validation import RuleCount, Validation

_MOST_CHARACTERS = 2_000  # of a message or a pointer: a field name can be as long as a file
_LOCATED_PER_RULE = 100  # findings of a rule whose column is looked up

Place = tuple[str, int | None, str]
"""Path, line and pointer of a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """How the run was made. What differs from run to run on the same data is here, and nowhere else in a report."""

    command: tuple[str, ...] = ()  # as it was typed
    version: str = __version__
    started: datetime | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file was when it was read."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the data was held to, as far as a picture of its lengths and sizes should show it. None: not given."""

    max_length: int | None = None
    image_min_pixels: int | None = None
    image_max_pixels: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What every format is made from."""

    validation: Validation  # `presentable`
    failed: bool  # something is at or above the fail level
    exit_code: int
    fail_level: Severity = Severity.ERROR
    is_redacted: bool = False
    show: int = 5  # samples a rule, where a person reads
    color: bool = False  # where a terminal shows it
    quiet: bool = False  # findings alone
    limits: Limits = field(default_factory=Limits)
    wants_pictures: bool = False
    pictures: Mapping[Place, str] = field(default_factory=dict)  # small images as data URIs, where they are asked for
    run: RunInfo = field(default_factory=RunInfo)
    digests: Mapping[str, FileDigest] = field(default_factory=dict)  # by path, of what can be read twice
    root: Path = field(default_factory=Path.cwd)  # where a code host starts its paths

    @property
    def worst_first(self) -> list[RuleCount]:
        """The rules that found something: by severity, then by number, then by code."""
        return self.validation.worst_first()

    def samples(self, count: RuleCount, most: int) -> Iterator[tuple[Finding, int | None]]:
        """The first `most` findings kept of a rule, each with its column where that can be told."""
        for index, finding in enumerate(count.findings[:most]):
            where = finding.location
            is_located = index < _LOCATED_PER_RULE
            yield finding, column(where.path, where.byte_offset, where.pointer) if is_located else None

    def relative(self, path: str) -> str:
        """`path` as a code host names it: from its root, with slashes; as it is where it lies elsewhere."""
        if path == STDIN:
            return "stdin"
        if "://" in path:
            return path
        relative = os.path.relpath(path, self.root)
        return path if relative.startswith("..") else relative.replace(os.sep, "/")


def presentable(validation: Validation, *, redact: bool) -> Validation:
    """The validation with its findings as reports may show them."""
    return replace(
        validation,
        inputs=tuple(replace(entry, path=writable(entry.path)) for entry in validation.inputs),
        counts={code: _presentable_count(count, redact=redact) for code, count in validation.counts.items()},
    )


def presentable_finding(finding: Finding, *, redact: bool) -> Finding:
    """The finding as reports may show it: of bearable length, and blacked out if it must be."""
    if redact:
        finding = finding.redacted()
    location = finding.location
    return replace(
        finding,
        message=_cut(writable(finding.message)),
        record_id=None if finding.record_id is None else _cut(writable(finding.record_id)),
        location=replace(location, path=writable(location.path), pointer=_cut_pointer(writable(location.pointer))),
        data=tuple((name, _cut(writable(v)) if isinstance(v, str) else v) for name, v in finding.data),
    )


def spread(counts: Sequence[RuleCount], most: int) -> dict[str, int]:
    """How many findings of each rule to show where there is room for `most`: the worst severity first, one of each rule
    in turn within it, so that no rule is crowded out by another of its kind.
    """
    shares: Counter[str] = Counter({count.rule.code: 0 for count in counts})
    for severity in Severity:
        open_counts = [count for count in counts if count.severity is severity]
        while open_counts and most > 0:
            turn = max(1, min(most // len(open_counts), min(_left(count, shares) for count in open_counts)))
            for count in open_counts:
                given = min(turn, most, _left(count, shares))
                shares[count.rule.code] += given
                most -= given
            open_counts = [count for count in open_counts if _left(count, shares)]
    return dict(shares)


def _left(count: RuleCount, shares: Mapping[str, int]) -> int:
    return len(count.findings) - shares[count.rule.code]


def _presentable_count(count: RuleCount, *, redact: bool) -> RuleCount:
    by_path: Counter[str] = Counter()
    for path, number in count.by_path.items():
        by_path[writable(path)] += number
    findings = [presentable_finding(finding, redact=redact) for finding in count.findings]
    return replace(count, by_path=by_path, findings=findings)


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"


def _cut_pointer(pointer: str) -> str:
    """`pointer`, or where it is too long that of something around its value: half a pointer would point nowhere."""
    return pointer if len(pointer) <= _MOST_CHARACTERS else pointer[:_MOST_CHARACTERS].rpartition("/")[0]

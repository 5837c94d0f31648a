"""What the HTML report shows, before it is HTML: chosen, cut to a size that a browser opens at once, and counted.

    Outcome ─▶ Page ─▶ templates/report.html

All numbers are exact. Lists are cut, and then it is said how much is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from kto_data.finding import Finding, Severity
from kto_data.image import DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS
from kto_data.remarks import Remark, remarks
from kto_data.report.chart import Histogram, Limit, histogram
from kto_data.report.outcome import Limits, Outcome
from kto_data.report.pages import RuleParts, rule_parts
from kto_data.report.stats_text import balance_lines
from kto_data.report.text import FIX_WORDS, cut, next_command, summary_line
from kto_data.rules.words import counted
from kto_data.survey import SourceCounts, SplitSurvey
from kto_data.triage import hidden_words
from kto_data.validation import InputCount, RuleCount, Validation

_MOST_SAMPLES = 10  # findings shown of a rule
_SAMPLE_BYTES = 100_000  # of all findings shown, as HTML
_MARKUP_BYTES = 150  # around the words of one
_MOST_OF_MESSAGE, _MOST_OF_PLACE = 400, 160  # characters
_MOST_INPUTS, _MOST_FILES, _MOST_REMARKS, _MOST_SPLITS, _MOST_SOURCES = 50, 5, 30, 3, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One finding. All text can be shown as it is."""

    place: str  # file:line:column
    pointer: str
    record_id: str
    message: str
    severity: Severity
    picture: str  # a data URI; empty where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSection:
    """What one rule found."""

    count: RuleCount
    parts: RuleParts
    fix: str
    samples: tuple[Sample, ...]
    files: tuple[tuple[str, int], ...]  # those with the most findings; empty where there is one input
    num_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSection:
    """What one split is like."""

    survey: SplitSurvey
    advice: tuple[str, ...]  # about its balance
    sources: tuple[SourceCounts, ...]
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that the template needs."""

    outcome: Outcome
    validation: Validation
    summary: str
    next_command: str
    hidden: str
    num_rows_ok: int
    rules: tuple[RuleSection, ...]
    remarks: tuple[Remark, ...]
    num_remarks: int
    splits: tuple[SplitSection, ...]
    inputs: tuple[InputCount, ...]
    skipped: tuple[tuple[str, tuple[str, ...]], ...]  # reason, rules
    num_pictures: int

    @property
    def severities(self) -> dict[Severity, int]:
        """Exact numbers of findings."""
        return {severity: self.validation.by_severity[severity] for severity in Severity}


def make_page(outcome: Outcome) -> Page:
    """The page of an outcome."""
    validation = outcome.validation
    found = remarks(validation.survey)
    rules = tuple(_rule_sections(outcome))
    return Page(
        outcome=outcome,
        validation=validation,
        summary=summary_line(validation),
        next_command=next_command(validation),
        hidden=hidden_words(validation.hidden),
        num_rows_ok=sum(entry.num_rows_ok for entry in validation.inputs),
        rules=rules,
        remarks=found[:_MOST_REMARKS],
        num_remarks=len(found),
        splits=tuple(_split_section(split, outcome) for split in validation.survey.splits[:_MOST_SPLITS]),
        inputs=validation.inputs[:_MOST_INPUTS],
        skipped=_skipped(validation),
        num_pictures=sum(1 for section in rules for sample in section.samples if sample.picture),
    )


def chosen_samples(counts: Sequence[RuleCount]) -> dict[str, list[Finding]]:
    """The findings to show of each rule: the first of all rules, then the second of all, as far as there is room."""
    chosen: dict[str, list[Finding]] = {count.rule.code: [] for count in counts}
    room = _SAMPLE_BYTES
    for turn in range(_MOST_SAMPLES):
        for count in counts:
            if turn < len(count.findings) and len(chosen[count.rule.code]) == turn:
                cost = _num_bytes(count.findings[turn])
                if cost <= room:
                    room -= cost
                    chosen[count.rule.code].append(count.findings[turn])
    return chosen


def _rule_sections(outcome: Outcome) -> Iterator[RuleSection]:
    chosen = chosen_samples(outcome.worst_first)
    for count in outcome.worst_first:
        number = len(chosen[count.rule.code])
        files = [(cut(outcome.relative(path), _MOST_OF_PLACE), n) for path, n in count.by_path.most_common(_MOST_FILES)]
        yield RuleSection(
            count=count,
            parts=rule_parts(count.rule),
            fix=FIX_WORDS[count.rule.fix],
            samples=tuple(_sample(outcome, finding, column) for finding, column in outcome.samples(count, number)),
            files=tuple(files) if len(count.by_path) > 1 else (),
            num_files=len(count.by_path),
        )


def _sample(outcome: Outcome, finding: Finding, column: int | None) -> Sample:
    where = finding.location
    line = "" if where.line is None else f":{where.line}" if column is None else f":{where.line}:{column}"
    return Sample(
        place=cut(outcome.relative(where.path), _MOST_OF_PLACE) + line,
        pointer=cut(where.pointer, _MOST_OF_PLACE),
        record_id=cut(finding.record_id or "", _MOST_OF_PLACE // 2),
        message=cut(finding.message, _MOST_OF_MESSAGE),
        severity=finding.severity,
        picture=outcome.pictures.get((where.path, where.line, where.pointer), ""),
    )


def _num_bytes(finding: Finding) -> int:
    where = finding.location
    words = (
        cut(where.path, _MOST_OF_PLACE),
        cut(where.pointer, _MOST_OF_PLACE),
        cut(finding.record_id or "", _MOST_OF_PLACE // 2),
        cut(finding.message, _MOST_OF_MESSAGE),
    )
    return _MARKUP_BYTES + sum(len(escape(word).encode()) for word in words)


def _split_section(split: SplitSurvey, outcome: Outcome) -> SplitSection:
    is_trained = split is outcome.validation.survey.trained
    return SplitSection(
        survey=split,
        advice=tuple(line.strip() for line in balance_lines(split.weights, advise=is_trained)),
        sources=split.sources[:_MOST_SOURCES] if split.num_sources > 1 else (),
        histograms=tuple(_histograms(split, outcome.limits, outcome.validation)),
    )


def _histograms(split: SplitSurvey, limits: Limits, validation: Validation) -> Iterator[Histogram]:
    yield histogram("Completion length", "characters", split.completion_length)
    if split.sample_tokens is not None:
        longest = limits.max_length
        note = _found(validation, "KTO501")
        given = () if longest is None else (Limit(value=longest, name="--max-length", note=note),)
        yield histogram("Sample length", "tokens", split.sample_tokens, given)
    if split.pixel_area is not None:
        least = limits.image_min_pixels or DEFAULT_MIN_PIXELS
        most = limits.image_max_pixels or DEFAULT_MAX_PIXELS
        bounds = (
            _pixel_limit(least, "--image-min-pixels", limits.image_min_pixels, _found(validation, "KTO211")),
            _pixel_limit(most, "--image-max-pixels", limits.image_max_pixels, _found(validation, "KTO210")),
        )
        yield histogram("Image area", "pixels", split.pixel_area, bounds)


def _pixel_limit(value: int, name: str, given: int | None, note: str) -> Limit:
    return Limit(value=value, name=name if given else f"{name}, not given: its default", note=note)


def _found(validation: Validation, code: str) -> str:
    """What a rule about a limit found in all splits; empty where it did not run."""
    if not any(rule.code == code for rule in validation.rules):
        return ""
    count = validation.counts.get(code)
    return f"{code}: {counted(count.count, 'finding')}" if count else f"{code}: nothing found"


def _skipped(validation: Validation) -> tuple[tuple[str, tuple[str, ...]], ...]:
    by_reason: dict[str, list[str]] = {}
    for rule, reason in validation.skipped:
        by_reason.setdefault(reason, []).append(f"{rule.code} {rule.name}")
    return tuple((reason, tuple(rules)) for reason, rules in by_reason.items())

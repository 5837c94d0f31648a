"""The JSON report of `ktodata validate`: one document, its shape published as `schemas/report.json`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kto_data.balance import BandWeights, admissible_weights
from kto_data.finding import Finding, Scalar, Severity
from kto_data.remarks import Remark, remarks
from kto_data.report.outcome import FileDigest, Outcome
from kto_data.rules.base import AnyRule, Fix
from kto_data.survey import LabelCounts, SplitSurvey, Survey
from kto_data.validation import InputCount, RuleCount


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FindingEntry(_Model):
    """One defect of one record, file or dataset."""

    code: str
    severity: Severity
    path: str
    line: int | None = Field(description="Physical line, 1-based; null for what is true of a whole file or dataset.")
    column: int | None = Field(
        description="Of the value on its line, 1-based, in Unicode code points; null where it was not looked up."
    )
    byte_offset: int | None = Field(description="Of the record's first byte, in the decompressed file.")
    json_path: str = Field(description="JSON Pointer (RFC 6901) inside the record, in the record's own spelling.")
    row_id: str | None = Field(description="The record's own `id`; null where it has none, or content is blacked out.")
    row_hash: str | None = Field(description="16 hex digits over the raw bytes of the record.")
    fingerprint: str = Field(description="The same wherever the record stands and however it is spaced.")
    message: str
    data: dict[str, Scalar] = Field(description="The numbers and names that the message is made of.")
    fix: str = Field(description="Whether a tool may mend it: that of its rule.")


class RunEntry(_Model):
    """How the run was made; what differs between runs on the same data is here alone."""

    tool: Literal["ktodata"] = "ktodata"
    version: str
    command: tuple[str, ...]
    started: datetime | None
    seconds: float | None
    fail_level: Severity
    redacted: bool = Field(description="Whether content of records is blacked out in messages.")


class InputEntry(_Model):
    """One input file."""

    path: str
    split: str
    sha256: str | None = Field(description="Of the file as it lies on disk; null for standard input.")
    bytes: int | None
    rows: int
    rows_ok: int = Field(description="Rows without an error.")


class Summary(_Model):
    """Exact numbers over all rules."""

    errors: int
    warnings: int
    infos: int
    rows: int
    rows_ok: int
    hidden: dict[str, int] = Field(description="Findings counted here alone, by what hides them.")


class RuleEntry(_Model):
    """One rule that was selected, and what it found."""

    code: str
    name: str
    severity: Severity = Field(description="The worst of its findings; its usual one where there are none.")
    fix: str = Field(description="Whether a tool may mend it.")
    fixable: bool = Field(description="Whether `--fix` mends it without being asked for more.")
    status: Literal["passed", "failed", "skipped"]
    count: int
    rows: int = Field(description="Records with at least one finding.")
    stored: int = Field(description="How many of them are in `findings`.")
    truncated: bool


class SkippedEntry(_Model):
    """A selected rule that could not run."""

    code: str
    reason: str


class Band(_Model):
    """Weights that bring the balance value into [1, `upper`], one of them changed and the other left."""

    upper: float
    desirable_weight: tuple[float, float]
    undesirable_weight: tuple[float, float]


class Labels(_Model):
    """Samples that satisfy the schema, by label."""

    desirable: int
    undesirable: int


class Weights(_Model):
    """The balance at weights 1 and 1; null where a label has no samples."""

    balance: float | None
    verdict: str
    trl: Band | None
    paper: Band | None


class Stats(_Model):
    """What the data is like."""

    labels: Labels
    weights: Weights
    splits: tuple[SplitSurvey, ...] = Field(description="Everything about the samples of each split.")
    remarks: tuple[Remark, ...] = Field(description="What is worth a look, though no rule forbids it.")


class ReportDocument(_Model):
    """What a run of `ktodata validate` found."""

    schema_version: Literal[1] = 1
    status: Literal["passed", "failed"]
    exit_code: int
    run: RunEntry
    inputs: tuple[InputEntry, ...]
    summary: Summary
    rules: tuple[RuleEntry, ...]
    skipped: tuple[SkippedEntry, ...]
    stats: Stats
    findings: tuple[FindingEntry, ...]


def report_document(outcome: Outcome) -> ReportDocument:
    """The document."""
    validation = outcome.validation
    by_severity = validation.by_severity
    skipped = {rule.code: reason for rule, reason in validation.skipped}
    rules = [*validation.rules, *(rule for rule, _ in validation.skipped)]
    return ReportDocument(
        status="failed" if outcome.failed else "passed",
        exit_code=outcome.exit_code,
        run=_run_entry(outcome),
        inputs=tuple(_input_entry(entry, outcome.digests.get(entry.path)) for entry in validation.inputs),
        summary=Summary(
            errors=by_severity[Severity.ERROR],
            warnings=by_severity[Severity.WARNING],
            infos=by_severity[Severity.INFO],
            rows=validation.num_rows,
            rows_ok=sum(entry.num_rows_ok for entry in validation.inputs),
            hidden={kind.name.lower(): number for kind, number in sorted(validation.hidden.items())},
        ),
        rules=tuple(
            _rule_entry(rule, validation.counts.get(rule.code), rule.code in skipped)
            for rule in sorted(rules, key=lambda rule: rule.code)
        ),
        skipped=tuple(SkippedEntry(code=code, reason=reason) for code, reason in skipped.items()),
        stats=stats_of(validation.survey),
        findings=tuple(
            finding_entry(finding, count.rule, column)
            for count in outcome.worst_first
            for finding, column in outcome.samples(count, len(count.findings))
        ),
    )


def document_text(outcome: Outcome) -> str:
    """The document as JSON."""
    return report_document(outcome).model_dump_json(indent=2) + "\n"


def finding_entry(finding: Finding, rule: AnyRule, column: int | None = None) -> FindingEntry:
    """One finding of `rule` as machines read it."""
    location = finding.location
    return FindingEntry(
        code=finding.code,
        severity=finding.severity,
        path=location.path,
        line=location.line,
        column=column,
        byte_offset=location.byte_offset,
        json_path=location.pointer,
        row_id=finding.record_id,
        row_hash=finding.row_hash,
        fingerprint=finding.fingerprint,
        message=finding.message,
        data=dict(finding.data),
        fix=rule.fix.value,
    )


def _run_entry(outcome: Outcome) -> RunEntry:
    run = outcome.run
    return RunEntry(
        version=run.version,
        command=run.command,
        started=run.started,
        seconds=None if run.seconds is None else round(run.seconds, 3),
        fail_level=outcome.fail_level,
        redacted=outcome.is_redacted,
    )


def _input_entry(entry: InputCount, digest: FileDigest | None) -> InputEntry:
    return InputEntry(
        path=entry.path,
        split=entry.split,
        sha256=digest.sha256 if digest else None,
        bytes=digest.num_bytes if digest else None,
        rows=entry.num_rows,
        rows_ok=entry.num_rows_ok,
    )


def _rule_entry(rule: AnyRule, count: RuleCount | None, is_skipped: bool) -> RuleEntry:
    found = count.count if count else 0
    stored = len(count.findings) if count else 0
    return RuleEntry(
        code=rule.code,
        name=rule.name,
        severity=count.severity if count else rule.severity,
        fix=rule.fix.value,
        fixable=rule.fix is Fix.SAFE,
        status="skipped" if is_skipped else "failed" if found else "passed",
        count=found,
        rows=count.num_rows if count else 0,
        stored=stored,
        truncated=stored < found,
    )


def stats_of(survey: Survey) -> Stats:
    """What the data is like: labels and weights of the split that is trained on, then everything, split by split."""
    trained = survey.trained
    labels = trained.labels if trained else LabelCounts(desirable=0, undesirable=0)
    weights = admissible_weights(labels.desirable, labels.undesirable)
    return Stats(
        labels=Labels(desirable=labels.desirable, undesirable=labels.undesirable),
        weights=Weights(
            balance=weights.balance,
            verdict=weights.verdict.value,
            trl=_band(weights.trl),
            paper=_band(weights.paper),
        ),
        splits=survey.splits,
        remarks=remarks(survey),
    )


def _band(band: BandWeights | None) -> Band | None:
    if band is None:
        return None
    return Band(
        upper=band.upper,
        desirable_weight=(band.desirable.low, band.desirable.high),
        undesirable_weight=(band.undesirable.low, band.undesirable.high),
    )

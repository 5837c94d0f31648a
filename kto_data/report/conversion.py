"""What a conversion changed, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from kto_data import __version__
from kto_data.rewrite.loop import Rewriting
from kto_data.rules.words import counted


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChangeEntry(_Model):
    """One kind of change."""

    kind: str
    detail: str = Field(description="At what: `gpt -> assistant`, or a name; empty where the kind says all.")
    count: int


class ConversionReport(_Model):
    """What became of the rows of a conversion."""

    schema_version: int = 1
    ktodata_version: str = __version__
    inputs: tuple[str, ...]
    output: str
    rejects: str | None = None
    rows: int = Field(description="Read; a blank line is none.")
    rows_written: int
    rows_rejected: int
    rows_with_errors: int = Field(description="Wherever they went.")
    error_rows: dict[str, int] = Field(description="Rows with an error of each rule; one row may have several.")
    records: int = Field(description="Written: two of a paired row.")
    changes: tuple[ChangeEntry, ...]


def conversion_report(
    done: Rewriting, *, inputs: Sequence[str], output: str, rejects: str | None = None
) -> ConversionReport:
    """The report of a conversion."""
    changes = tuple(
        ChangeEntry(kind=kind, detail=detail, count=count)
        for (kind, detail), count in sorted(done.changes.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    )
    return ConversionReport(
        inputs=tuple(inputs),
        output=output,
        rejects=rejects,
        rows=done.num_rows,
        rows_written=done.num_written,
        rows_rejected=done.num_rejected,
        rows_with_errors=done.num_with_errors,
        error_rows=dict(done.error_codes.most_common()),
        records=done.num_records,
        changes=changes,
    )


def conversion_lines(report: ConversionReport) -> Iterator[str]:
    """The same for people: a line for each kind of change, then where the rows are."""
    by_kind: dict[str, list[str]] = {}
    for change in report.changes:
        by_kind.setdefault(change.kind, []).append(f"{change.detail} {change.count:,}".strip())
    for kind, details in by_kind.items():
        yield f"{kind}: {', '.join(details)}"
    if not by_kind:
        yield "no row had to be changed"
    if report.error_rows:
        yield f"rows with errors: {codes_text(report.error_rows)}"
    output = "standard output" if report.output == "-" else report.output
    rejected = f" + {report.rows_rejected:,} rejected (in {report.rejects})" if report.rejects is not None else ""
    yield (
        f"{report.rows_written:,} written{rejected} = {counted(report.rows, 'row')} read; "
        f"{counted(report.records, 'record')} {'on' if report.output == '-' else 'in'} {output}"
    )


def codes_text(error_rows: Mapping[str, int]) -> str:
    """How many rows have which error."""
    return ", ".join(f"{code} {count:,}" for code, count in error_rows.items())

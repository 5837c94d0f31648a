"""The loop of `ktodata convert`: every row is written, rejected, or named by a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from kto_data.check import CheckedLine, CheckSettings, LineChecker
from kto_data.chunk import Line
from kto_data.clean import Gate
from kto_data.errors import InputError
from kto_data.finding import Finding, Location, Severity
from kto_data.formats import Layout
from kto_data.image import ImageCheck
from kto_data.inputs import Input
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.read import read_rows
from kto_data.rejects import reject_entry
from kto_data.rewrite.spelling import Change, ChangeKind, on_one_line, respell
from kto_data.row import Row, SyntaxProblem
from kto_data.rules.base import Defect
from kto_data.rules.files import unmapped_images
from kto_data.rules.schema import utf8_bom
from kto_data.ruling import as_finding


@dataclass(slots=True)
class Rewriting:
    """What was read, written and changed. A blank line is no row."""

    num_rows: int = 0
    num_written: int = 0  # rows
    num_records: int = 0  # written: two of a paired row
    num_rejected: int = 0
    num_with_errors: int = 0  # rows, wherever they went
    error_codes: Counter[str] = field(default_factory=Counter)  # rows with an error of each rule
    has_images: bool = False
    changes: Counter[Change] = field(default_factory=Counter)


def rewrite(
    inputs: Sequence[Input],
    output: BinaryIO,
    *,
    rejects: BinaryIO | None = None,
    keep_errors: bool = False,
    listen: Callable[[Sequence[Finding]], None] = lambda findings: None,
    progress: Callable[[int], None] = lambda num_rows: None,
) -> Rewriting:
    """Write the records of all inputs to `output`. `listen` is told the errors of rows.

    A row with errors goes to `rejects`; without them it is in the numbers alone. With `keep_errors` it is written as
    far as it goes, unless it cannot be read at all. Image files are not looked at. Raises `InputError` where a file
    cannot be read, or there is no row at all.
    """
    done = Rewriting()
    for entry in inputs:
        writer = _Writer(entry.layout, output, rejects, done, keep_errors=keep_errors)
        for chunk in entry.source.chunks():
            for line in chunk.lines():
                errors = writer.take(line)
                if errors:
                    listen(errors)
            progress(done.num_rows)
    if not done.num_rows:
        raise InputError("there are no rows, only blank lines", hint="check that whatever wrote the data was finished")
    assert rejects is None or done.num_written + done.num_rejected == done.num_rows, "rows are lost"
    return done


class _Writer:
    """Takes the lines of one file."""

    def __init__(
        self, layout: Layout, output: BinaryIO, rejects: BinaryIO | None, done: Rewriting, *, keep_errors: bool
    ) -> None:
        self._layout = layout
        self._checker = LineChecker(layout, CheckSettings(images=ImageCheck.OFF))
        self._gate = Gate(self._checker)
        self._output = output
        self._rejects = rejects
        self._done = done
        self._keep_errors = keep_errors

    def take(self, line: Line) -> list[Finding]:
        """Write the line's records, or put it with the rejected rows; its errors."""
        done = self._done
        sample = self._gate.clean(line.raw, line.path)
        if sample is not None:
            done.num_rows += 1
            done.has_images |= sample[2].num_images > 0
            self._write((on_one_line(line.raw),))
            return []
        checked = self._checker.check(line)
        if line.raw.startswith(BYTE_ORDER_MARK):
            done.changes[ChangeKind.BYTE_ORDER_MARK, ""] += 1
        if not checked.labels:
            done.changes[ChangeKind.BLANK_LINE, ""] += 1
            return []
        done.num_rows += 1
        errors = _errors(checked)
        done.num_with_errors += bool(errors)
        done.error_codes.update({finding.code for finding in errors})
        rows = read_rows(line, self._layout)
        spelling = respell(rows, self._layout) if not errors or (self._keep_errors and _is_readable(rows)) else None
        if spelling is not None and (not errors or _is_read_as_written(spelling.lines)):
            done.changes.update(spelling.changes)
            done.has_images |= any(row.image_paths for row in rows)
            self._write(spelling.lines)
        elif self._rejects is not None:
            done.num_rejected += 1
            self._rejects.write(reject_entry(line, (finding.code for finding in errors)) + b"\n")
        return errors

    def _write(self, lines: tuple[bytes, ...]) -> None:
        self._output.writelines(line + b"\n" for line in lines)
        self._done.num_written += 1
        self._done.num_records += len(lines)


def _errors(checked: CheckedLine) -> list[Finding]:
    """Why a row cannot be written. A byte order mark is no reason: it goes; images that would go without a word are."""
    errors = [f for f in checked.findings if f.severity is Severity.ERROR and f.code != utf8_bom.code]
    if checked.unmapped_images:
        line = checked.line
        location = Location(path=line.path, line=line.number, byte_offset=line.byte_offset)
        defect = Defect('the row has images, but the column mapping names no images column: add "images": "images"')
        errors.append(as_finding(unmapped_images, defect, location, read_rows(line, Layout())[0]))
    return errors


def _is_read_as_written(lines: Sequence[bytes]) -> bool:
    """Whether the lines of a row with errors are canonical, and still have them: what is missing from one format may
    make the rest of the row a record of another."""
    checker = LineChecker(Layout(), CheckSettings(images=ImageCheck.OFF))
    again = [Line("", 1, 0, line) for line in lines]
    are_canonical = all(respell(read_rows(line, Layout()), Layout()).lines == (line.raw,) for line in again)
    return are_canonical and any(_errors(checker.check(line)) for line in again)


def _is_readable(rows: Sequence[Row]) -> bool:
    """Whether all that a row holds is known: nothing is hidden by its syntax."""
    facts = [fact for row in rows for fact in row.facts]
    return isinstance(rows[0].value, dict) and all(fact.problem is SyntaxProblem.BYTE_ORDER_MARK for fact in facts)

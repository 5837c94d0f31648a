"""`ktodata convert`: records of any readable format to canonical JSON lines."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TextIO, cast

import typer

from kto_data.commands import options
from kto_data.commands.output import notes
from kto_data.commands.places import refuse_shared
from kto_data.errors import ExitCode, UsageError
from kto_data.safe_text import as_word, printable

if TYPE_CHECKING:
    from kto_data.finding import Finding
    from kto_data.inputs import Input
    from kto_data.rewrite.loop import Rewriting

_STDOUT = Path("-")

Output = Annotated[Path, typer.Option(help="File to write: .jsonl, .jsonl.gz or .jsonl.zst; - is standard output.")]
Rejects = Annotated[Path | None, typer.Option(help="Leave rows with errors out, and write them here.")]
KeepErrors = Annotated[
    bool, typer.Option("--keep-errors", help="Write rows with errors too, as far as they can be read.")
]
Report = Annotated[Path | None, typer.Option(help="Write what was changed to this file, as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=options.GroupedCommand)(convert)


def convert(
    paths: options.Paths = None,
    *,
    output: Output,
    format: options.RecordFormat = "auto",
    dataset_info: options.DatasetInfo = None,
    dataset: options.Dataset = None,
    map: options.Map = None,
    rejects: Rejects = None,
    keep_errors: KeepErrors = False,
    report: Report = None,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Write KTO data of any readable format as canonical JSON lines, and say what was changed.

    Nothing is written while a row has errors, unless --rejects or --keep-errors says what becomes of it. Image files
    are not looked at. Exit code 0: all rows are written or rejected; 1: rows have errors; 2: could not be converted.
    """
    from kto_data.inputs import open_inputs
    from kto_data.progress import Progress
    from kto_data.report.conversion import conversion_lines, conversion_report
    from kto_data.rewrite.loop import rewrite
    from kto_data.writing import write_whole

    inputs = open_inputs(
        paths or (), format=format, columns=options.columns_of(map), dataset_info=dataset_info, dataset=dataset,
        say=notes(quiet=quiet),
    )  # fmt: skip
    _check_places(inputs, output, rejects, report)
    lists_errors = rejects is None and not keep_errors
    with ExitStack() as stack:
        written = stack.enter_context(_whole(output))
        rejected = stack.enter_context(_whole(rejects)) if rejects is not None else None
        bar = stack.enter_context(Progress("convert", enabled=not quiet and progress == "auto"))
        done = rewrite(
            inputs, written, rejects=rejected, keep_errors=keep_errors, progress=bar.advance_to,
            listen=_printer(sys.stderr if output == _STDOUT else sys.stdout) if lists_errors else _silent,
        )  # fmt: skip
        if done.num_written + done.num_rejected < done.num_rows or not done.num_written:
            _say_why_not(done)
            raise typer.Exit(ExitCode.FINDINGS)  # leaves the files as they were
    told = conversion_report(done, inputs=_names(inputs), output=str(output), rejects=str(rejects) if rejects else None)
    if report is not None:
        write_whole(report, told.model_dump_json(indent=2).encode() + b"\n")
    if not quiet:
        for line in (*conversion_lines(told), *_next(inputs, output, done)):
            print(printable(line), file=sys.stderr)


def _names(inputs: Sequence[Input]) -> list[str]:
    return [entry.source.path for entry in inputs]


def _check_places(inputs: Sequence[Input], output: Path, rejects: Path | None, report: Path | None) -> None:
    """Raises `UsageError` where a file is no place for what it is to hold, or holds something else already."""
    from kto_data.chunk import SourceKind
    from kto_data.opening import kind_of

    lines = (SourceKind.JSONL, SourceKind.JSONL_GZ, SourceKind.JSONL_ZST)
    if output != _STDOUT and kind_of(str(output)) not in lines:
        endings = " or ".join(f".{kind}" for kind in lines)
        raise UsageError(f"--output {output} is no file of JSON lines", hint=f"end its name with {endings}")
    for option, path in (("--rejects", rejects), ("--report", report)):
        if path == _STDOUT:
            raise UsageError(f"{option} - is no file", hint="standard output is for rows: name a file")
    refuse_shared(inputs, [("--output", output), ("--rejects", rejects), ("--report", report)])


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is written whole or not at all; standard output too."""
    from kto_data.compression import compressing
    from kto_data.writing import whole_file

    if path != _STDOUT:
        with whole_file(path) as file, compressing(path.name, file) as packed:
            yield packed
        return
    with tempfile.TemporaryFile() as spool:
        yield cast("BinaryIO", spool)
        spool.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(spool, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _printer(stream: TextIO) -> Callable[[Sequence[Finding]], None]:
    from kto_data.report.text import concise_line

    def listen(findings: Sequence[Finding]) -> None:
        shown = (finding.redacted() for finding in findings) if os.environ.get("CI") else findings
        stream.writelines(f"{concise_line(finding)}\n" for finding in shown)

    return listen


def _silent(findings: Sequence[Finding]) -> None:
    pass


def _say_why_not(done: Rewriting) -> None:
    from kto_data.report.conversion import codes_text
    from kto_data.rules import ALL_RULES
    from kto_data.rules.base import Fix

    sys.stdout.flush()
    bad = done.num_rows - done.num_written
    what = "row has" if bad == 1 else "rows have"
    codes = codes_text(dict(done.error_codes.most_common()))
    print(f"ktodata: nothing is written: {bad:,} {what} errors, of {done.num_rows:,} ({codes})", file=sys.stderr)
    mended = [rule.code for rule in ALL_RULES if rule.fix is Fix.SAFE and rule.code in done.error_codes]
    keep = "--keep-errors writes those that can be read"
    if done.num_rejected:
        print(f"  try: {keep}", file=sys.stderr)
    else:
        print(f"  try: --rejects FILE leaves such rows out, {keep}", file=sys.stderr)
    if mended:
        print(f"  or: ktodata validate --fix, which mends {', '.join(mended)}", file=sys.stderr)


def _next(inputs: Sequence[Input], output: Path, done: Rewriting) -> Iterator[str]:
    """What to do with the file: image paths go on to start where they did."""
    from kto_data.inputs import folder_of
    from kto_data.source import STDIN

    folders = {folder_of(name) for name in _names(inputs) if name != STDIN}
    own = os.path.realpath(output.parent)
    is_elsewhere = done.has_images and len(folders) == 1 and folders != {own}
    root = f" --image-root {as_word(folders.pop())}" if is_elsewhere else ""
    if done.has_images and len(folders) > 1:
        yield "note: images of several folders are in one file now: their paths start from different folders"
    if output != _STDOUT:
        yield f"next: ktodata validate {as_word(str(output))}{root}"

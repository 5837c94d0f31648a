"""What `ktodata validate` prints and writes: one format to the output, any number of reports to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, get_args

from kto_data.choices import OutputFormat
from kto_data.errors import InputError, UsageError
from kto_data.finding import Severity
from kto_data.safe_text import printable

if TYPE_CHECKING:
    from kto_data.check import CheckSettings
    from kto_data.inputs import Input
    from kto_data.report.balance.model import BalanceReport
    from kto_data.report.outcome import Outcome, Place
    from kto_data.settings import ValidateSettings
    from kto_data.validation import Validation

MOST_SUMMARY_BYTES = 900_000
"""Of a step's summary on GitHub, which takes a megabyte."""


BALANCE_FORMATS = ("full", "json", "markdown", "html")
"""Of the label balance report of a cache."""


def planned_reports(given: Sequence[str], formats: Collection[str] = get_args(OutputFormat)) -> list[tuple[str, Path]]:
    """The `FORMAT:PATH` of each --report, looked at before any work is done.

    Raises `UsageError` for what is no format, and `InputError` where a file cannot be written.
    """
    planned = []
    for text in given:
        name, colon, path = text.partition(":")
        if not colon or not path or name not in formats:
            raise UsageError(f"--report {text} is not FORMAT:PATH", hint=f"formats are {', '.join(formats)}")
        folder = Path(path).absolute().parent
        if not os.access(folder, os.W_OK) or Path(path).is_dir():
            raise InputError(f"cannot write the report {path}", hint="name a file in a folder that can be written to")
        planned.append((name, Path(path)))
    return planned


def is_redacted(settings: ValidateSettings) -> bool:
    """Whether content of records is blacked out: as asked, or else where `CI` is set, since more people read its logs
    than the data."""
    return bool(os.environ.get("CI")) if settings.redact is None else settings.redact


def make_outcome(
    validation: Validation,
    settings: ValidateSettings,
    inputs: Sequence[Input],
    check: CheckSettings,
    *,
    started: datetime,
    exit_code: int,
    failed: bool,
    formats: Collection[str],
) -> Outcome:
    """The finished run as reports take it. What only some `formats` show is looked up for them alone: hashes of files,
    pictures."""
    from kto_data.report.outcome import FileDigest, Limits, Outcome, RunInfo, presentable

    digests = {}
    if "json" in formats:
        digests = {
            entry.source.path: FileDigest(*entry.source.digest())
            for entry in inputs
            if entry.source.num_bytes is not None
        }
    redact = is_redacted(settings)
    shown = presentable(validation, redact=redact)
    pictures: dict[Place, str] = {}
    if settings.thumbnails and "html" in formats and not redact:
        from kto_data.report.page import chosen_samples
        from kto_data.report.pictures import take_pictures

        pictures = take_pictures(chosen_samples(shown.worst_first()).values(), inputs, check)
    return Outcome(
        validation=shown,
        failed=failed,
        exit_code=exit_code,
        fail_level=Severity(settings.fail_level),
        is_redacted=redact,
        show=settings.show,
        quiet=settings.quiet,
        limits=Limits(
            max_length=check.max_length,
            image_min_pixels=check.budget.min_pixels,
            image_max_pixels=check.budget.max_pixels,
        ),
        wants_pictures=settings.thumbnails,
        pictures=pictures,
        root=_checkout(),
        run=RunInfo(
            command=("ktodata", *sys.argv[1:]),
            started=started,
            seconds=(datetime.now(UTC) - started).total_seconds(),
        ),
        digests=digests,
    )


def _checkout() -> Path:
    """Where a code host starts its paths: its checkout, where this is a run of one, and else the current folder."""
    folder = Path.cwd()
    checkouts = (os.environ.get(name) for name in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"))
    return next((Path(root) for root in checkouts if root and folder.is_relative_to(root)), folder)


def write_reports(outcome: Outcome, planned: Sequence[tuple[str, Path]]) -> None:
    """Write each report to its file, whole."""
    from kto_data.report.formats import FORMATS
    from kto_data.writing import write_whole

    for name, path in planned:
        write_whole(path, FORMATS[name](outcome).encode())


def write_balance(report: BalanceReport, planned: Sequence[tuple[str, Path]]) -> None:
    """Write the report of a cache to each file, whole."""
    from kto_data.report.balance.formats import FORMATS
    from kto_data.writing import write_whole

    for name, path in planned:
        write_whole(path, FORMATS[name](report).encode())


def write_step_summary(outcome: Outcome) -> None:
    """Add to GitHub's summary of the step, where the run is one."""
    from kto_data.report.markdown import markdown_report
    from kto_data.report.text import summary_line

    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    text = markdown_report(outcome)
    try:
        with open(summary, "a", encoding="utf-8") as file:
            # Other commands of the same step write to it too, and of what is too large nothing at all is shown.
            if file.tell() + len(text.encode()) > MOST_SUMMARY_BYTES:
                text = f"ktodata validate: {summary_line(outcome.validation)} (the summary of this step is full)\n"
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write the step summary {summary}: {error.strerror}") from None


def wants_color(color: str, output: TextIO) -> bool:
    """Whether to print in colours."""
    if color == "auto":
        return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return color == "always"


def notes(*, quiet: bool) -> Callable[[str], None]:
    """Says on the standard error what a person should know, a line each time; nothing with `--quiet`."""

    def say(text: str) -> None:
        if not quiet:
            print(f"note: {printable(text)}", file=sys.stderr)

    return say


def print_summary(validation: Validation) -> None:
    """Say on the standard error how the run went, and what to do next."""
    from kto_data.report.text import next_command, summary_line
    from kto_data.triage import hidden_words

    sys.stdout.flush()
    if validation.hidden:
        print(f"not shown: {hidden_words(validation.hidden)}", file=sys.stderr)
    print(f"{summary_line(validation)}\nnext: {next_command(validation)}", file=sys.stderr)

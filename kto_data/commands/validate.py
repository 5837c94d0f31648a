"""`ktodata validate`: every defect of KTO data, before any model is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from kto_data.errors import ExitCode, InputError, UsageError
from kto_data.finding import Finding, Severity

if TYPE_CHECKING:
    from kto_data.check import CheckSettings
    from kto_data.inputs import Input
    from kto_data.validate import Validation

OutputFormat = Literal["full", "concise", "json", "github"]
_BYTES_WORTH_A_PROCESS = 16_000_000  # under it, starting processes takes longer than checking


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(validate)


def validate(
    paths: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="Data files; - is stdin.")] = None,
    *,
    format: Annotated[str, typer.Option(help="Format of the records.")] = "auto",
    dataset_info: Annotated[Path | None, typer.Option(help="A LLaMA-Factory dataset_info.json.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The entry of --dataset-info to read.")] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder that image paths start from.", show_default="the data file's folder")
    ] = None,
    images: Annotated[
        Literal["off", "stat", "header", "decode"], typer.Option(help="How closely images are looked at.")
    ] = "header",
    image_max_pixels: Annotated[int | None, typer.Option(min=1, help="Point out larger images.")] = None,
    image_min_pixels: Annotated[int | None, typer.Option(min=1, help="Point out smaller images.")] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Run these rules alone: codes or prefixes, comma-separated.")
    ] = None,
    extend_select: Annotated[list[str] | None, typer.Option(help="Run these rules too.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Leave these rules out.")] = None,
    fail_level: Annotated[
        Literal["error", "warning", "info"], typer.Option(help="Least severity that makes the exit code 1.")
    ] = "error",
    output_format: Annotated[OutputFormat, typer.Option(help="How findings are printed.")] = "full",
    output_file: Annotated[Path | None, typer.Option("--output-file", "-o", help="Print findings to a file.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Findings shown a rule in the full format.")] = 5,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever is found.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a processor")] = None,
    color: Annotated[Literal["auto", "always", "never"], typer.Option(help="Colours.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print findings alone.")] = False,
) -> None:
    """Check KTO data: every defect of every row, with file, line and what to do.

    Exit code 0: nothing at or above the fail level; 1: findings; 2: the data could not be checked.
    """
    from kto_data.check import CheckSettings
    from kto_data.image import ImageCheck, PixelBudget
    from kto_data.inputs import open_inputs
    from kto_data.rules.selection import select_rules

    if image_max_pixels and image_min_pixels and image_min_pixels > image_max_pixels:
        raise UsageError("--image-min-pixels is above --image-max-pixels", hint="swap the two numbers")
    if image_root is not None and not image_root.is_dir():
        raise InputError(
            f"--image-root {image_root} is not a folder", hint="name the folder that image paths start from"
        )
    rules = select_rules(select=select or (), ignore=ignore or (), extend_select=extend_select or ())
    if not rules:
        raise UsageError("no rule is left to run", hint="ignore less, or select more")
    settings = CheckSettings(
        images=ImageCheck(images),
        image_root=image_root,
        budget=PixelBudget(min_pixels=image_min_pixels, max_pixels=image_max_pixels),
        codes=frozenset(rule.code for rule in rules),
    )
    inputs = open_inputs(paths or [], format=format, dataset_info=dataset_info, dataset=dataset)
    with _output(output_file) as output:
        validation = _run(inputs, settings, jobs, output if output_format == "concise" else None, quiet)
        failed = validation.fails(Severity(fail_level))
        exit_code = ExitCode.FINDINGS if failed and not exit_zero else ExitCode.OK
        if output_format == "full":
            _print_full(validation, output, show, color=_wants_color(color, output), quiet=quiet)
        elif output_format == "json":
            _print_json(validation, inputs, output, exit_code=exit_code, failed=failed)
        elif output_format == "github":
            _print_github(validation, output)
    if not quiet:
        _print_summary(validation)
    if exit_code:
        raise typer.Exit(exit_code)


def _run(
    inputs: Sequence[Input], settings: CheckSettings, jobs: int | None, stream: TextIO | None, quiet: bool
) -> Validation:
    from kto_data.engine import local
    from kto_data.progress import Progress
    from kto_data.report.text import concise_line
    from kto_data.validate import validate as run

    def listen(findings: Sequence[Finding]) -> None:
        if stream is not None:
            stream.writelines(f"{concise_line(finding)}\n" for finding in findings)

    with Progress("validate", enabled=not quiet) as progress:
        return run(
            inputs, settings, jobs=jobs or _worthwhile_jobs(inputs, local.default_jobs()), listen=listen,
            progress=progress.advance_to,
        )  # fmt: skip


def _worthwhile_jobs(inputs: Sequence[Input], processors: int) -> int:
    from kto_data.source import STDIN

    if any(entry.source.path == STDIN for entry in inputs):
        return processors
    num_bytes = sum(Path(entry.source.path).stat().st_size for entry in inputs)
    return min(processors, 1 + num_bytes // _BYTES_WORTH_A_PROCESS)


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", hint="name a file that can be written") from None


def _wants_color(color: str, output: TextIO) -> bool:
    if color == "auto":
        return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return color == "always"


def _print_full(validation: Validation, output: TextIO, show: int, *, color: bool, quiet: bool) -> None:
    from kto_data.report.text import Paint, full_report

    lines = full_report(validation, show=show, paint=Paint(color=color), quiet=quiet)
    output.writelines(f"{line}\n" for line in lines)


def _print_json(
    validation: Validation, inputs: Sequence[Input], output: TextIO, *, exit_code: int, failed: bool
) -> None:
    from kto_data.report.document import report_document
    from kto_data.source import STDIN

    digests = {entry.source.path: entry.source.digest() for entry in inputs if entry.source.path != STDIN}
    document = report_document(validation, digests, exit_code=exit_code, failed=failed)
    output.write(document.model_dump_json(indent=2) + "\n")


def _print_github(validation: Validation, output: TextIO) -> None:
    from kto_data.report.github import annotate, step_summary

    output.writelines(f"{line}\n" for line in annotate(validation))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(step_summary(validation))
        except OSError as error:
            raise InputError(f"cannot write the step summary {summary}: {error.strerror}") from None


def _print_summary(validation: Validation) -> None:
    from kto_data.report.text import next_command, summary_line

    sys.stdout.flush()
    print(f"{summary_line(validation)}\nnext: {next_command(validation)}", file=sys.stderr)

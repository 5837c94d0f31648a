"""`ktodata preprocess`: input files to a cache, its balance report, and what to do next."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kto_data.choices import EngineName, PackImages
from kto_data.errors import ExitCode, UsageError, require_packages
from kto_data.policy import Contradictions, Invalid, TooLong
from kto_data.safe_text import as_word

if TYPE_CHECKING:
    from kto_data.inputs import Input
    from kto_data.preprocess import Result
    from kto_data.recipe import PreprocessSettings
    from kto_data.so_far import FindingsSoFar

DEFAULT_SHARD_ROWS = 16_384
DEFAULT_BATCH_SIZE = 4  # the least that is advised for KTO
MOST_SHARD_ROWS, MOST_BATCH_SIZE = 1_000_000_000, 1_000_000  # more are a slip of the finger
_WARNINGS_SHOWN = 3  # of a rule: they leave no row out, and `ktodata validate` shows them all
NEEDED_PACKAGES = ("transformers", "datasets", "pyarrow", "jinja2")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(preprocess)


def preprocess(
    paths: Annotated[list[str] | None, typer.Argument(metavar="DATA...", help="Files to train on; - is stdin.")] = None,
    *,
    model: Annotated[str, typer.Option(help="Model folder or hub id; its weights are not read.")],
    output: Annotated[str, typer.Option(help="Folder or URL for the cache.")],
    eval_data: Annotated[list[str] | None, typer.Option(help="Files of the eval split. Repeatable.")] = None,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Hold back such a part of the rows as the eval split, by prompt and image.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one draws another eval split.")] = 0,
    contradictions: Annotated[
        Contradictions, typer.Option(help="What becomes of equal rows with both labels.")
    ] = Contradictions.KEEP,
    image_root: Annotated[
        str | None,
        typer.Option(help="Folder or URL that image paths start from.", show_default="the data file's folder"),
    ] = None,
    format: Annotated[str, typer.Option(help="Format of the records.")] = "auto",
    dataset_info: Annotated[Path | None, typer.Option(help="A LLaMA-Factory dataset_info.json.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The entry of --dataset-info to read.")] = None,
    map: Annotated[
        list[str] | None, typer.Option(help="Our name of a field and your column. Repeatable.", metavar="NAME=COLUMN")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens a row may have, images included.")] = None,
    too_long: Annotated[TooLong, typer.Option(help="What becomes of longer rows.")] = TooLong.ERROR,
    invalid: Annotated[Invalid, typer.Option(help="What becomes of rows with errors.")] = Invalid.ERROR,
    image_max_pixels: Annotated[int | None, typer.Option(min=1, help="Scale larger images down to it.")] = None,
    image_min_pixels: Annotated[int | None, typer.Option(min=1, help="Scale smaller images up to it.")] = None,
    pack_images: Annotated[
        PackImages, typer.Option(help="Copy images into the cache: as they are, or scaled to --image-max-pixels.")
    ] = "none",
    shard_rows: Annotated[int, typer.Option(min=1, max=MOST_SHARD_ROWS, help="Rows of a shard.")] = DEFAULT_SHARD_ROWS,
    batch_size: Annotated[
        int,
        typer.Option(min=1, max=MOST_BATCH_SIZE, help="Rows a device, of the training to come: for the report alone."),
    ] = DEFAULT_BATCH_SIZE,
    report: Annotated[
        list[str] | None,
        typer.Option(
            help="Write the label balance report to a file besides: full, json, markdown or html. Repeatable.",
            metavar="FORMAT:PATH",
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a processor")] = None,
    engine: Annotated[EngineName, typer.Option(help="Where the work runs: on this machine, or on Ray.")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to join, HOST:PORT or auto.", show_default="a Ray is started here"),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Take over what earlier runs have done.")] = True,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")] = False,
) -> None:
    """Make an exact token cache of KTO data, with a label balance report.

    The ids are those that TRL would feed the model. Image tokens are worked out from image headers, no pixel is
    decoded. Every row is checked on the way, and is either kept or dropped under the code of a rule.
    """
    require_packages(NEEDED_PACKAGES, extra="preprocess", needed_for="`ktodata preprocess`")
    from kto_data.allot import AllotSettings
    from kto_data.build import BuildSettings
    from kto_data.commands.options import columns_of, pixel_budget
    from kto_data.commands.output import BALANCE_FORMATS, notes, planned_reports, write_balance
    from kto_data.commands.places import image_folder, refuse_shared, refuse_within
    from kto_data.engine.choose import open_engine
    from kto_data.inputs import common_folder, num_bytes, open_inputs
    from kto_data.paths import EVAL
    from kto_data.preprocess import preprocess as run
    from kto_data.progress import Progress
    from kto_data.recipe import PreprocessSettings
    from kto_data.storage import is_url
    from kto_data.text_ids import fast_after
    from kto_data.upload import work_folder

    output = output.rstrip("/") if is_url(output) else output
    _check_eval(eval_data, eval_fraction)
    _check_packing(pack_images, image_max_pixels)
    planned = planned_reports(report or (), BALANCE_FORMATS)
    every_input = open_inputs(
        paths or [], format=format, columns=columns_of(map), dataset_info=dataset_info, dataset=dataset,
        splits=[(EVAL, path) for path in eval_data or ()], say=notes(quiet=quiet),
    )  # fmt: skip
    reports = [(f"--report {name}:", path) for name, path in planned]
    refuse_shared(every_input, reports)
    if not is_url(output):
        refuse_within(Path(output), reports)
    settings = PreprocessSettings(
        inputs=_by_split(every_input),
        output=work_folder(output) if is_url(output) else Path(output),
        url=output if is_url(output) else "",
        build=BuildSettings(
            model=model,
            trust_remote_code=trust_remote_code,
            image_root=image_folder(image_root) or common_folder(every_input),
            budget=pixel_budget(image_min_pixels, image_max_pixels),
            max_length=max_length,
            too_long=too_long,
            invalid=invalid,
            pack_images=pack_images,
        ),
        allot=AllotSettings(eval_fraction=eval_fraction, seed=seed, contradictions=contradictions),
        shard_rows=shard_rows,
        batch_size=batch_size,
        resume=resume,
    )
    with (
        open_engine(engine, jobs=jobs, address=ray_address) as opened,
        Progress("preprocess", enabled=not quiet) as progress,
    ):
        build = replace(settings.build, fast_after=fast_after(num_bytes(every_input), opened.jobs))
        settings = replace(settings, build=build, engine=opened.run, jobs=opened.jobs)
        result = run(settings, progress.advance_to)
    if result.report is not None:
        write_balance(result.report, planned)
    _show(result, settings, quiet=quiet)
    if result.manifest is None:
        raise typer.Exit(ExitCode.FINDINGS)


def _by_split(inputs: Sequence[Input]) -> dict[str, tuple[Input, ...]]:
    """The files of each split. Raises `UsageError` where there is none to train on."""
    from kto_data.paths import EVAL, TRAIN

    by_split = {split: tuple(entry for entry in inputs if entry.split == split) for split in (TRAIN, EVAL)}
    if not by_split[TRAIN]:
        raise UsageError("no file is left to train on", hint="name one besides those of --eval-data")
    return {split: files for split, files in by_split.items() if files}


def _check_eval(eval_data: list[str] | None, eval_fraction: float | None) -> None:
    if eval_fraction is None:
        return
    if eval_data:
        raise UsageError(
            "--eval-fraction and --eval-data cannot be given together",
            hint="the eval split is either drawn from the data, or has files of its own",
        )
    if not 0 < eval_fraction < 1:
        raise UsageError(f"--eval-fraction {eval_fraction:g} is no part of the rows", hint="for one in twenty: 0.05")


def _check_packing(pack_images: PackImages, max_pixels: int | None) -> None:
    if pack_images == "resized" and max_pixels is None:
        raise UsageError(
            "--pack-images resized scales images down to --image-max-pixels, and none is given",
            hint="give --image-max-pixels N, or --pack-images original",
        )


def _show(result: Result, settings: PreprocessSettings, *, quiet: bool) -> None:
    for line in _finding_lines(result.findings):
        typer.echo(line)
    if result.manifest is None or result.report is None:
        from kto_data.rules.words import counted

        errors = counted(result.findings.num_errors, "error")
        rows = f" in {counted(result.num_rows, 'row')}" if result.num_rows else ""  # of a first pass alone
        typer.echo(f"ktodata: no cache was made: {errors}{rows}", err=True)
        typer.echo(f"  try: {_remedy(result.findings)}", err=True)
        return
    if quiet:
        return
    for line in _what_was_done(result):
        typer.echo(f"ktodata: {line}", err=True)
    from kto_data.commands.output import wants_color
    from kto_data.publish import REJECTS_NAME, REPORT_NAMES
    from kto_data.report.balance.text import balance_lines
    from kto_data.report.text import Paint

    for text in balance_lines(result.report, Paint(color=wants_color("auto", sys.stdout))):
        typer.echo(text)
    output = as_word(settings.url or str(settings.output))
    typer.echo("")
    if packed := result.manifest.packed:
        size = f"{packed.bytes / 1e6:,.1f} MB"
        typer.echo(f"images: {packed.paths:,} files, {packed.files:,} distinct, {size} in {output}/images")
    if any(split.counts.dropped for split in result.manifest.splits.values()):
        typer.echo(f"dropped rows and why: {output}/{REJECTS_NAME}")
    typer.echo(f"the whole report: {output}/{REPORT_NAMES['html']} (or ktodata stats {as_word(str(settings.output))})")
    typer.echo(f"next: ktodata train --cache {output} --model {as_word(settings.build.model)} --output RUN")


def _remedy(findings: FindingsSoFar) -> str:
    """What helps where no cache was made: rows may be left out, unless nobody knows which ones are at fault."""
    from kto_data.encode import TOO_LONG_CODES
    from kto_data.finding import Severity
    from kto_data.lost import LOST_CODE
    from kto_data.preprocess import WHOLE_INPUT_CODES

    codes = {code for code, severity in findings.counts if severity is Severity.ERROR}
    if LOST_CODE in codes:
        return (
            "take the rows out or mend them, and run again, which goes on from here; "
            "--engine local --jobs 1 on them alone shows what they do"
        )
    if told := sorted(codes & WHOLE_INPUT_CODES):
        return f"ktodata rule {told[0]} says what to do: it is true of the input as a whole, not of rows to leave out"
    options = {"--invalid drop": codes - TOO_LONG_CODES, "--too-long drop": codes & TOO_LONG_CODES}
    return f"mend the rows, or leave them out with {' '.join(option for option, found in options.items() if found)}"


def _finding_lines(findings: FindingsSoFar) -> Iterator[str]:
    """Of errors all that are known whole, for each costs its row; of each other rule the first few."""
    from kto_data.finding import Severity
    from kto_data.report.text import concise_line

    shown: Counter[str] = Counter()
    for finding in findings.kept:
        if finding.severity is Severity.ERROR or shown[finding.code] < _WARNINGS_SHOWN:
            shown[finding.code] += 1
            yield concise_line(finding)
    for code, count in findings.counts_by_code.items():
        if count > shown[code]:
            yield f"… and {count - shown[code]:,} more of {code}"


def _what_was_done(result: Result) -> Iterator[str]:
    """What a run found done, and why it did the rest again."""
    from kto_data.report.changes import change_lines

    uploaded = result.uploaded
    if uploaded is not None and not uploaded.is_unchanged:
        yield f"sent {uploaded.num_sent:,} files; {uploaded.num_there:,} were there already"
    if result.is_unchanged:
        yield "nothing has changed: the cache stays as it is"
        return
    for line in change_lines(result.changes):
        yield f"changed since the last run: {line}"
    if result.num_reused:
        yield f"{result.num_reused:,} of {result.num_units:,} shards were done already"

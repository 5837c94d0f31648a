"""`ktodata stats`: what the data is like, or the cache that was made of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kto_data.commands import options
from kto_data.commands.places import refuse_shared, refuse_within
from kto_data.errors import UsageError

if TYPE_CHECKING:
    from kto_data.settings import ValidateSettings

StatsFormat = Annotated[
    Literal["full", "json", "markdown", "html"],
    options.option(
        options.OUTPUT, help="For people or for machines; markdown and html of a cache alone.", allow_from_autoenv=False
    ),
]
StatsFile = Annotated[
    Path | None,
    options.option(options.OUTPUT, "--output-file", "-o", help="Print to a file.", allow_from_autoenv=False),
]
_STDOUT = Path("-")
_OF_A_CACHE = frozenset(
    {"paths", "output_format", "output_file", "config", "isolated", "jobs", "color", "progress", "quiet"}
)
"""The options that mean something for a cache, or do no harm."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=options.GroupedCommand, context_settings={"auto_envvar_prefix": options.ENV_PREFIX})(stats)


def stats(
    ctx: typer.Context,
    paths: options.Paths = None,
    *,
    format: options.RecordFormat = "auto",
    dataset_info: options.DatasetInfo = None,
    dataset: options.Dataset = None,
    map: options.Map = None,
    split: options.Split = None,
    limit: options.Limit = None,
    sample: options.Sample = None,
    seed: options.Seed = 0,
    image_root: options.ImageRoot = None,
    images: options.Images = "header",
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    batch_size: options.BatchSize = None,
    train_config: options.TrainConfig = None,
    output_format: StatsFormat = "full",
    output_file: StatsFile = None,
    config: options.Config = None,
    isolated: options.Isolated = False,
    jobs: options.Jobs = None,
    color: options.Color = "auto",
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Show what KTO data is like: labels and weights, lengths, repeats, and what of it is worth a look.

    Of a cache, given as its folder or URL, it is the label balance report. Records that break the schema are left out.
    Exit code 0 whatever is found; 2: the data could not be read.
    """
    cache = _as_cache(paths or ())
    if cache is not None:
        _refuse_options_of_data(ctx)
        _cache_stats(cache, output_format, output_file, color)
        return
    if output_format in ("markdown", "html"):
        raise UsageError(
            f"--output-format {output_format} is for a cache, and {' '.join(paths or ())} is none",
            hint=f"ktodata validate --report {output_format}:FILE has the numbers of data",
        )
    effective = options.settings_of(ctx, config=config or (), isolated=isolated)
    # How and where to print is said on the command line alone: in a file, or the environment, it is for `validate`.
    _stats(effective.settings, output_format, output_file)


def _as_cache(paths: Sequence[str]) -> Path | str | None:
    from kto_data import storage
    from kto_data.manifest import MANIFEST_NAME
    from kto_data.opened_cache import place_of
    from kto_data.opening import kind_of

    if len(paths) == 1 and storage.is_url(paths[0]) and kind_of(paths[0]) is None:
        with suppress(OSError):  # of what cannot be reached it is told where it is opened
            if storage.is_file(storage.join(paths[0], MANIFEST_NAME)):
                return place_of(paths[0])
    if len(paths) == 1 and os.path.isfile(os.path.join(paths[0], MANIFEST_NAME)):
        return Path(paths[0])
    return None


def _refuse_options_of_data(ctx: typer.Context) -> None:
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in _OF_A_CACHE:
            raise UsageError(
                f"--{name.replace('_', '-')} is for data, and this is a cache",
                hint="leave it out: a cache has its report already (its batch size is an option of ktodata preprocess)",
            )


def _cache_stats(cache: Path | str, output_format: str, output_file: Path | None, color: str) -> None:
    from kto_data.commands.output import wants_color
    from kto_data.commands.validate import opened
    from kto_data.manifest import read_manifest
    from kto_data.report.balance.formats import FORMATS
    from kto_data.report.balance.model import read_report
    from kto_data.report.balance.text import balance_lines
    from kto_data.report.text import Paint

    if output_file != _STDOUT:
        refuse_within(cache, [("--output-file", output_file)])
    report = read_report(cache, read_manifest(cache))
    with opened(output_file, sys.stdout) as output:
        if output_format == "full":
            paint = Paint(color=wants_color(color, output))
            output.writelines(f"{line}\n" for line in balance_lines(report, paint))
        else:
            output.write(FORMATS[output_format](report))


def _stats(settings: ValidateSettings, output_format: str, output_file: Path | None) -> None:
    from kto_data.commands.output import notes, wants_color
    from kto_data.commands.validate import check_settings, opened, worthwhile_jobs
    from kto_data.engine import local
    from kto_data.inputs import open_inputs, take_excerpt
    from kto_data.progress import Progress
    from kto_data.report.document import stats_of
    from kto_data.report.stats_text import survey_lines
    from kto_data.report.text import Paint
    from kto_data.rules.words import counted
    from kto_data.validate import validate

    inputs = open_inputs(
        settings.paths, format=settings.format, columns=settings.map, dataset_info=settings.dataset_info,
        dataset=settings.dataset, splits=settings.split.items(), say=notes(quiet=settings.quiet),
    )  # fmt: skip
    refuse_shared(inputs, [("--output-file", output_file)])
    excerpt = take_excerpt(inputs, limit=settings.limit, sample=settings.sample, seed=settings.seed)
    check = check_settings(settings)
    jobs = settings.jobs or worthwhile_jobs(inputs, local.default_jobs())
    with opened(output_file, sys.stdout) as output:
        with Progress("stats", enabled=not settings.quiet and settings.progress == "auto") as progress:
            found = validate(inputs, check, excerpt=excerpt, jobs=jobs, progress=progress.of_rows)
        if output_format == "json":
            output.write(stats_of(found.survey).model_dump_json(indent=2) + "\n")
        else:
            paint = Paint(color=wants_color(settings.color, output))
            output.writelines(f"{line}\n" for line in survey_lines(found.survey, paint))
            if excerpt.text:
                output.write(f"\n{excerpt.text}\n")
    num_bad = found.num_rows - sum(entry.num_rows_ok for entry in found.inputs)
    if num_bad and not settings.quiet:
        left_out = counted(num_bad, "row")
        print(f"{left_out} with errors: see ktodata validate", file=sys.stderr)

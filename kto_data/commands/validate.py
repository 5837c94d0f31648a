"""`ktodata validate`: every defect of KTO data, before any model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from kto_data.commands import options
from kto_data.commands.fix import FixOptions, fixing, show_diff
from kto_data.commands.judge import judge
from kto_data.commands.output import (
    make_outcome,
    notes,
    planned_reports,
    print_summary,
    wants_color,
    write_reports,
    write_step_summary,
)
from kto_data.commands.places import image_folder, refuse_shared
from kto_data.errors import ExitCode, InputError, UsageError
from kto_data.finding import Severity

if TYPE_CHECKING:
    from kto_data.check import CheckSettings
    from kto_data.commands.gate import Sieve
    from kto_data.inputs import Input
    from kto_data.settings import Effective, ValidateSettings
    from kto_data.triage import Triage

_STDOUT = Path("-")
_BYTES_WORTH_A_PROCESS = 16_000_000  # under it, starting processes takes longer than checking


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    # Typer looks for what is not on the command line in KTODATA_<OPTION>.
    app.command(cls=options.GroupedCommand, context_settings={"auto_envvar_prefix": options.ENV_PREFIX})(validate)


def validate(
    ctx: typer.Context,
    paths: options.Paths = None,
    *,
    # Input
    format: options.RecordFormat = "auto",
    dataset_info: options.DatasetInfo = None,
    dataset: options.Dataset = None,
    map: options.Map = None,
    split: options.Split = None,
    limit: options.Limit = None,
    sample: options.Sample = None,
    seed: options.Seed = 0,
    # Images
    image_root: options.ImageRoot = None,
    images: options.Images = "header",
    image_max_pixels: options.ImageMaxPixels = None,
    image_min_pixels: options.ImageMinPixels = None,
    row_max_pixels: options.RowMaxPixels = None,
    # Model
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    max_length: options.MaxLength = None,
    batch_size: options.BatchSize = None,
    train_config: options.TrainConfig = None,
    # Rules
    select: options.Select = None,
    extend_select: options.ExtendSelect = None,
    ignore: options.Ignore = None,
    per_file_ignores: options.PerFileIgnores = None,
    severity: options.Severities = None,
    thresholds: options.Thresholds = None,
    # Output
    output_format: options.OutputFormat = "full",
    output_file: options.OutputFile = None,
    report: options.Reports = None,
    statistics: options.Statistics = False,
    show: options.Show = 5,
    thumbnails: options.Thumbnails = False,
    redact: options.Redact = None,
    # Gate
    fail_level: options.FailLevel = "error",
    exit_zero: options.ExitZero = False,
    baseline: options.BaselineFile = None,
    write_baseline: options.WriteBaseline = None,
    new_from: options.NewFrom = None,
    # Fix
    fix: options.FixFlag = False,
    unsafe_fixes: options.UnsafeFixes = False,
    diff: options.Diff = False,
    out: options.Out = None,
    in_place: options.InPlace = False,
    rejects: options.Rejects = None,
    # Misc
    config: options.Config = None,
    isolated: options.Isolated = False,
    show_settings: options.ShowSettings = False,
    jobs: options.Jobs = None,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = None,
    color: options.Color = "auto",
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check KTO data: every defect of every row, with file, line and what to do.

    Exit code 0: nothing at or above the fail level; 1: findings; 2: the data could not be checked.
    """
    # The parameters above are read through `ctx`, which knows which of them were given: a file may set the others.
    effective = options.settings_of(ctx, config=config or (), isolated=isolated)
    if show_settings:
        sys.stdout.writelines(f"{line}\n" for line in effective.lines())
        return
    fixes = FixOptions(
        fix=fix, diff=diff, unsafe=effective.settings.unsafe_fixes, out=out, in_place=in_place, rejects=rejects
    )
    exit_code = _validate(effective, write_baseline, fixes)
    if exit_code:
        raise typer.Exit(exit_code)


def _validate(effective: Effective, write_baseline: Path | None, fixes: FixOptions) -> ExitCode:
    from kto_data.commands.gate import make_sieve
    from kto_data.engine import local
    from kto_data.inputs import open_inputs

    settings = effective.settings
    planned = planned_reports(settings.report)  # what cannot be written is told of before anything is done
    if settings.statistics and settings.output_format not in ("full", "concise", "grouped"):
        raise UsageError(
            f"--statistics and --output-format {settings.output_format} cannot be given together",
            hint="leave --statistics out: formats for machines have the numbers too",
        )

    say = notes(quiet=settings.quiet)
    check = check_settings(settings)
    inputs = open_inputs(
        settings.paths, format=settings.format, columns=settings.map, dataset_info=settings.dataset_info,
        dataset=settings.dataset, splits=settings.split.items(), say=say,
    )  # fmt: skip
    reports = [
        ("--output-file", settings.output_file), ("--write-baseline", write_baseline),
        *((f"--report {name}:", path) for name, path in planned),
    ]  # fmt: skip
    refuse_shared(inputs, reports)
    check = replace(check, has_eval_split=len({entry.split for entry in inputs}) > 1)
    jobs = settings.jobs or worthwhile_jobs(inputs, local.default_jobs())
    if settings.verbose:
        _say_what_runs(effective, check, jobs, say)
    if fixes.is_wanted and settings.engine != "local":
        raise UsageError("--fix works on this machine alone", hint="leave out --engine ray")
    if not fixes.is_wanted:
        return _report(inputs, check, effective, write_baseline, jobs, say)
    if settings.limit is not None or settings.sample is not None:
        raise UsageError("--fix mends whole files", hint="leave out --limit and --sample")

    def make_triage() -> Triage:
        every = replace(settings, baseline=None, new_from=None)  # what was known before is mended too
        return make_sieve(
            every, inputs=inputs, check=check, config_file=effective.config_file, write_to=None, jobs=jobs
        ).triage

    if fixes.diff:
        is_changed = show_diff(inputs, check, fixes, make_triage=make_triage, jobs=jobs, say=say)
        return ExitCode.FINDINGS if is_changed and not settings.exit_zero else ExitCode.OK
    with fixing(inputs, check, fixes, reports, make_triage=make_triage, jobs=jobs, say=say) as fixed:
        return _report(fixed.inputs, fixed.check, effective, write_baseline, jobs, say, to_stderr=fixes.to_stdout)


def _report(
    inputs: Sequence[Input],
    check: CheckSettings,
    effective: Effective,
    write_baseline: Path | None,
    jobs: int,
    say: Callable[[str], None],
    *,
    to_stderr: bool = False,
) -> ExitCode:
    from kto_data.commands.gate import make_sieve
    from kto_data.inputs import take_excerpt
    from kto_data.report.formats import FORMATS, statistics

    started = datetime.now(UTC)
    settings = effective.settings
    planned = planned_reports(settings.report)
    excerpt = take_excerpt(inputs, limit=settings.limit, sample=settings.sample, seed=settings.seed)
    if excerpt.text:
        say(excerpt.text)

    def make() -> Sieve:
        return make_sieve(
            settings, inputs=inputs, check=check, config_file=effective.config_file, write_to=write_baseline, jobs=jobs
        )

    with opened(settings.output_file, sys.stderr if to_stderr else sys.stdout) as output:
        # Lines that need nothing but their finding are printed as they come.
        stream = output if settings.output_format == "concise" and not settings.statistics else None
        sieve, validation = judge(inputs, excerpt, check, make, jobs, settings, stream)
        failed = validation.fails(Severity(settings.fail_level)) and write_baseline is None
        exit_code = ExitCode.FINDINGS if failed and not settings.exit_zero else ExitCode.OK
        names = {settings.output_format, *(name for name, _ in planned)}
        outcome = make_outcome(
            validation, settings, inputs, check, started=started, exit_code=exit_code, failed=failed, formats=names
        )
        if settings.statistics:
            output.write(statistics(outcome))
        elif stream is None:
            outcome = replace(outcome, color=wants_color(settings.color, output))
            output.write(FORMATS[settings.output_format](outcome))
    write_reports(outcome, planned)
    if "github" in names:
        write_step_summary(outcome)
    for note in sieve.close(validation):
        say(note)
    if not settings.quiet:
        print_summary(validation)
    return exit_code


def _say_what_runs(effective: Effective, check: CheckSettings, jobs: int, say: Callable[[str], None]) -> None:
    say(f"settings from {effective.config_file or 'no file'}")
    for line in effective.lines(given_only=True):
        say(line)
    say(f"{len(check.codes)} rules selected, {jobs} {'process' if jobs == 1 else 'processes'}")


def check_settings(settings: ValidateSettings) -> CheckSettings:
    """What lines are held to, as asked. Raises `UsageError` and `InputError` for what cannot be."""
    from kto_data.check import CheckSettings
    from kto_data.image import ImageCheck
    from kto_data.rules.selection import select_rules

    rules = select_rules(select=settings.select, ignore=settings.ignore, extend_select=settings.extend_select)
    if not rules:
        raise UsageError("no rule is left to run", hint="ignore less, or select more")
    return CheckSettings(
        images=ImageCheck(settings.images),
        image_root=image_folder(settings.image_root),
        budget=options.pixel_budget(settings.image_min_pixels, settings.image_max_pixels),
        row_max_pixels=settings.row_max_pixels,
        model=settings.model,
        trust_remote_code=settings.trust_remote_code,
        max_length=settings.max_length,
        batch_size=settings.batch_size or _planned_batch_size(settings.train_config),
        train_config=settings.train_config,
        codes=frozenset(rule.code for rule in rules),
    )


def _planned_batch_size(train_config: Path | None) -> int | None:
    from kto_data.training import read_train_plan

    return read_train_plan(train_config).batch_size if train_config is not None else None


def worthwhile_jobs(inputs: Sequence[Input], processors: int) -> int:
    """How many processes save time."""
    sizes = [entry.source.num_bytes for entry in inputs]
    known = [size for size in sizes if size is not None]
    return processors if len(known) < len(sizes) else min(processors, 1 + sum(known) // _BYTES_WORTH_A_PROCESS)


@contextmanager
def opened(path: Path | None, stream: TextIO) -> Iterator[TextIO]:
    """The file, or the stream where none is named."""
    if path is None or path == _STDOUT:
        yield stream
        return
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", hint="name a file that can be written") from None

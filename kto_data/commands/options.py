"""The options that commands share, with their help; and what was given for them.

`commands/validate.py` uses all of them, other commands those they need. `kto_data/settings.py` says how to add one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from kto_data import choices
from kto_data.commands import completion

if TYPE_CHECKING:
    from kto_data.image import PixelBudget
    from kto_data.settings import Effective

ENV_PREFIX = "KTODATA"
"""An option of `ktodata validate` that is not given is looked for in the environment: `KTODATA_FAIL_LEVEL`."""

INPUT, IMAGES, MODEL, RULES, OUTPUT, GATE, FIX, MISC = (
    *("Input", "Images", "Model", "Rules", "Output", "Gate", "Fix", "Misc"),
)


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    """An option that `--help` shows under the heading `panel`. `names`: where the parameter's own will not do."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_envvar=False, **more)


def flag(panel: str, name: str, *names: str, help: str) -> Any:
    """An option without a value, and without its `--no-` twin: a file's `true` is undone with `--config key=false`."""
    return option(panel, name, *names, help=help)


Paths = Annotated[
    list[str] | None, typer.Argument(metavar="DATA...", help="Data files, folders, patterns, URLs; - is stdin.")
]

# Input
RecordFormat = Annotated[str, option(INPUT, help="Format of the records.", autocompletion=completion.record_formats)]
DatasetInfo = Annotated[Path | None, option(INPUT, help="A LLaMA-Factory dataset_info.json.")]
Dataset = Annotated[str | None, option(INPUT, help="The entry of --dataset-info to read.")]
Map = Annotated[
    list[str] | None, option(INPUT, help="Our name of a field and your column. Repeatable.", metavar="NAME=COLUMN")
]
Split = Annotated[
    list[str] | None, option(INPUT, help="A file of another split than train. Repeatable.", metavar="SPLIT=PATH")
]
Limit = Annotated[int | None, option(INPUT, help="Look at the first rows alone.", min=1)]
Sample = Annotated[int | None, option(INPUT, help="Look at so many rows, drawn at random.", min=1)]
Seed = Annotated[int, option(INPUT, help="Seed of --sample.", min=0)]

# Images
ImageRoot = Annotated[
    str | None,
    option(IMAGES, help="Folder or URL that image paths start from.", show_default="the data file's folder"),
]
Images = Annotated[choices.ImageLevel, option(IMAGES, help="How closely images are looked at.")]
ImageMaxPixels = Annotated[int | None, option(IMAGES, help="Point out larger images.", min=1)]
ImageMinPixels = Annotated[int | None, option(IMAGES, help="Point out smaller images.", min=1)]
RowMaxPixels = Annotated[int | None, option(IMAGES, help="Point out rows whose images have more together.", min=1)]

# Model
Model = Annotated[Path | None, option(MODEL, help="Model folder or hub id; its weights are not read. Counts tokens.")]
TrustRemoteCode = Annotated[bool, flag(MODEL, "--trust-remote-code", help="Run code that comes with the model.")]
MaxLength = Annotated[int | None, option(MODEL, help="Tokens a row may have, images included.", min=1)]
BatchSize = Annotated[
    int | None, option(MODEL, help="Rows a device, of the training to come.", min=1, show_default="of --train-config")
]
TrainConfig = Annotated[Path | None, option(MODEL, help="Config file of `ktodata train`, to be checked with the data.")]

# Rules
Select = Annotated[
    list[str] | None,
    option(
        RULES,
        help="Run these rules alone: codes, prefixes or names, comma-separated.",
        autocompletion=completion.rules,
    ),
]
ExtendSelect = Annotated[list[str] | None, option(RULES, help="Run these rules too.", autocompletion=completion.rules)]
Ignore = Annotated[list[str] | None, option(RULES, help="Leave these rules out.", autocompletion=completion.rules)]
PerFileIgnores = Annotated[
    list[str] | None,
    option(RULES, help="Leave rules out for the files that a pattern matches. Repeatable.", metavar="PATTERN:CODES"),
]
Severities = Annotated[
    list[str] | None,
    option(
        RULES,
        help="How bad the findings of rules are: error, warning or info. Repeatable.",
        metavar="CODE=LEVEL",
        autocompletion=completion.severities,
    ),
]
Thresholds = Annotated[
    list[str] | None,
    option(
        RULES, "--threshold", metavar="CODE=NUMBER", help="More findings than this, or than this share of rows (1%),"
        " are an error; up to it they are warnings. Repeatable.",
    ),
]  # fmt: skip

# Output
OutputFormat = Annotated[
    choices.OutputFormat,
    option(OUTPUT, help="How findings are printed: concise ones as they come, with --model at the end."),
]
OutputFile = Annotated[Path | None, option(OUTPUT, "--output-file", "-o", help="Print findings to a file.")]
Reports = Annotated[
    list[str] | None,
    option(
        OUTPUT,
        "--report",
        help="Write a report to a file besides. Repeatable.",
        metavar="FORMAT:PATH",
        autocompletion=completion.reports,
    ),
]
Statistics = Annotated[bool, flag(OUTPUT, "--statistics", help="Print the number of findings of each rule alone.")]
Redact = Annotated[
    bool | None,
    option(
        OUTPUT, "--redact/--show-content", help="Black out content of records in messages.",
        show_default="redacted where CI is set",
    ),
]  # fmt: skip
Thumbnails = Annotated[
    bool, flag(OUTPUT, "--thumbnails", help="Put small pictures into the html report, where content may be shown.")
]
Show = Annotated[int, option(OUTPUT, help="Findings shown a rule in the full format.", min=0)]

# Gate
FailLevel = Annotated[choices.FailLevel, option(GATE, help="Least severity that makes the exit code 1.")]
ExitZero = Annotated[bool, flag(GATE, "--exit-zero", help="Exit with 0 whatever is found.")]
BaselineFile = Annotated[
    Path | None, option(GATE, "--baseline", help="Leave out what was known when this file was written.")
]
WriteBaseline = Annotated[
    Path | None, option(GATE, "--write-baseline", help="Write what is found to a file for --baseline; exit with 0.")
]
NewFrom = Annotated[
    str | None, option(GATE, "--new-from", help="Leave out what is found in this git revision too.", metavar="GITREF")
]

# Fix
FixFlag = Annotated[
    bool, flag(FIX, "--fix", help="Mend what can be mended safely, in a copy (--out) or the file itself (--in-place).")
]
UnsafeFixes = Annotated[bool, flag(FIX, "--unsafe-fixes", help="Mend also what changes what a row says.")]
Diff = Annotated[bool, flag(FIX, "--diff", help="Show what --fix would do, and write nothing.")]
Out = Annotated[Path | None, option(FIX, help="Write mended rows to this file, or folder; - is standard output.")]
InPlace = Annotated[bool, flag(FIX, "--in-place", help="Replace the input by its mended rows.")]
Rejects = Annotated[
    Path | None, option(FIX, help="Take out rows that cannot be trained on, and repeated ones; write them here.")
]

# Misc
Config = Annotated[
    list[str] | None,
    option(MISC, help="Settings: a TOML file in place of the nearest one, or key=value. Repeatable.", metavar="CONFIG"),
]
Isolated = Annotated[bool, flag(MISC, "--isolated", help="Read no configuration file.")]
ShowSettings = Annotated[
    bool, flag(MISC, "--show-settings", help="Print every setting and where it came from, and exit.")
]
Jobs = Annotated[int | None, option(MISC, help="Processes.", min=1, show_default="one a processor")]
Engine = Annotated[choices.EngineName, option(MISC, help="Where the work runs: on this machine, or on Ray.")]
RayAddress = Annotated[
    str | None, option(MISC, help="Ray cluster to join, HOST:PORT or auto.", show_default="a Ray is started here")
]
Color = Annotated[choices.ColorMode, option(MISC, help="Colours.")]
Progress = Annotated[choices.ProgressMode, option(MISC, help="Whether to say how far the run is.")]
Verbose = Annotated[bool, flag(MISC, "--verbose", "-v", help="Say which settings and rules are at work.")]
Quiet = Annotated[bool, flag(MISC, "--quiet", "-q", help="Print findings alone.")]


class GroupedCommand(TyperCommand):
    """A command whose help shows its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, each under the heading of its panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or MISC
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def settings_of(ctx: typer.Context, *, config: Sequence[str], isolated: bool) -> Effective:
    """The settings of a run of `ktodata validate`, from everything that was given."""
    from kto_data.config_file import Given
    from kto_data.settings import known_keys, option_value, resolve

    given: dict[str, dict[str, Given]] = {"COMMANDLINE": {}, "ENVIRONMENT": {}}
    for parameter in ctx.command.params:
        key = (parameter.name or "").replace("_", "-")
        source = ctx.get_parameter_source(parameter.name or "")
        if key not in known_keys() or source is None or source.name not in given:
            continue
        variable = f"{ENV_PREFIX}_{key.replace('-', '_').upper()}"
        word = "DATA" if key == "paths" else max(parameter.opts, key=len)
        origin = variable if source.name == "ENVIRONMENT" else word
        value = option_value(
            key, _plain(ctx.params[parameter.name or ""]), origin=origin, form=str(parameter.metavar or "")
        )
        given[source.name][key] = Given(value, origin)
    return resolve(given["COMMANDLINE"], given["ENVIRONMENT"], config=config, isolated=isolated)


def columns_of(given: Sequence[str] | None) -> dict[str, str]:
    """What --map says: our name of a field -> the user's column."""
    from kto_data.settings import option_value

    columns = option_value("map", list(given or ()), origin="--map", form="NAME=COLUMN")
    assert isinstance(columns, dict)
    return columns


def pixel_budget(least: int | None, most: int | None) -> PixelBudget:
    """The budget of --image-min-pixels and --image-max-pixels. Raises `UsageError` where no image can be within it."""
    from kto_data.errors import UsageError
    from kto_data.image import PixelBudget

    if least and most and least > most:
        raise UsageError("--image-min-pixels is above --image-max-pixels", hint="swap the two numbers")
    return PixelBudget(min_pixels=least, max_pixels=most)


def _plain(value: Any) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, Path) else value

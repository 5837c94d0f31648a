"""The settings of `ktodata validate`: command line over environment over configuration file over default.

    options, KTODATA_…, ktodata.toml ─▶ resolve ─▶ Effective(settings, origins)

A new option takes three small edits:

1. a field of `ValidateSettings` with its default, named as the option without its dashes (`--image-root` is
   `image_root`, and `image-root` in a file). Paths are marked `Relative()`: in a file they start at that file's
   folder. A mapping is a table in a file and a repeated `KEY=VALUE` on the command line;
2. an alias in `commands/options.py`, which gives the help, and a parameter of the same name and default in
   `commands/validate.py`;
3. its use, read from `ValidateSettings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, get_origin

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from kto_data.choices import ColorMode, FailLevel, ImageLevel, OutputFormat, ProgressMode
from kto_data.config_file import Given, Relative, RelativePatterns, find_config, from_file, from_text, place_of
from kto_data.errors import ConfigError

DEFAULT = "default"
"""Where a value came from that nobody gave."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Marks a mapping whose entries are not `KEY=VALUE` on the command line, but written with another separator."""

    separator: str


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-")
    )


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
FilePath = Annotated[Path | None, Relative()]


Codes = Annotated[tuple[str, ...], BeforeValidator(lambda given: _words(given))]
Amount = Annotated[str, BeforeValidator(lambda given: _digits(given)), Field(pattern=r"^\d+(\.\d+)?%?$")]


class ThresholdEntry(_Strict):
    """How many findings of a rule are put up with: a number such as "10", or a share of all rows such as "0.5%"."""

    warn: Amount = "0"
    error: Amount | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: object) -> object:
        """ "10" is short for `{error = "10"}`."""
        return given if isinstance(given, dict) else {"error": given}


class SuppressEntry(_Strict):
    """Findings that somebody has looked at and lives with, and why."""

    rule: Annotated[str, Field(min_length=1)]  # a code, a prefix of codes or a name
    path: str = ""
    row: str = ""  # a record's id or hash, or a fingerprint
    reason: Annotated[str, Field(min_length=1)]
    expires: date | None = None


class ValidateSettings(_Strict):
    """Every option of `ktodata validate` that a configuration file may set."""

    # Input
    paths: Annotated[tuple[str, ...], Relative()] = ()
    format: str = "auto"
    dataset_info: FilePath = None
    dataset: str | None = None
    map: dict[str, str] = Field(default_factory=dict)
    split: Annotated[dict[str, str], Relative()] = Field(default_factory=dict)
    limit: Positive | None = None
    sample: Positive | None = None
    seed: Count = 0
    # Images
    image_root: Annotated[str | None, Relative()] = None
    images: ImageLevel = "header"
    image_max_pixels: Positive | None = None
    image_min_pixels: Positive | None = None
    row_max_pixels: Positive | None = None
    # Model and training
    model: FilePath = None
    trust_remote_code: bool = False
    max_length: Positive | None = None
    batch_size: Positive | None = None
    train_config: FilePath = None
    # Rules
    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: Annotated[dict[str, Codes], RelativePatterns(), Entries(":")] = Field(default_factory=dict)
    severity: dict[str, FailLevel] = Field(default_factory=dict)
    thresholds: dict[str, ThresholdEntry] = Field(default_factory=dict)
    suppress: Annotated[tuple[SuppressEntry, ...], RelativePatterns()] = ()
    # Output
    output_format: OutputFormat = "full"
    output_file: FilePath = None
    show: Count = 5
    # Gate
    fail_level: FailLevel = "error"
    exit_zero: bool = False
    baseline: FilePath = None
    new_from: str | None = None
    # Misc
    jobs: Positive | None = None
    color: ColorMode = "auto"
    progress: ProgressMode = "auto"
    quiet: bool = False
    verbose: bool = False


_FIELDS: dict[str, FieldInfo] = {name.replace("_", "-"): info for name, info in ValidateSettings.model_fields.items()}


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings of a run, and of each where it came from."""

    settings: ValidateSettings
    origins: Mapping[str, str]  # by key, as it stands in a file
    config_file: Path | None

    def lines(self, *, given_only: bool = False) -> Iterable[str]:
        """`key = value  # origin` for every setting, or those that somebody gave; as TOML where it has the type."""
        values = self.settings.model_dump(mode="json", by_alias=True)
        for key, value in values.items():
            if given_only and key not in self.origins:
                continue
            shown = orjson.dumps(value).decode()
            yield f"{'# ' if value is None else ''}{key} = {shown}  # {self.origins.get(key, DEFAULT)}"


def resolve(
    options: Mapping[str, Given],
    environment: Mapping[str, Given],
    *,
    config: Sequence[str] = (),
    isolated: bool = False,
    folder: Path | None = None,
) -> Effective:
    """The settings of a run started in `folder` (the current one).

    `options` and `environment`: what was given there, by key. `config`: a file, or `key=value` in TOML, where a bare
    word is text; it counts for less than an option of its own. `isolated`: no file is looked for. Raises `ConfigError`
    for a file that cannot be read, an unknown key (with the one that was probably meant) and a value of a wrong type.
    """
    path, inline = _config_options(config)
    if path is None and not isolated:
        path = find_config(folder or Path.cwd())
    file_layer = [from_file(path, _FIELDS)] if path else []
    merged: dict[str, Given] = {}
    for layer in (*file_layer, environment, *(from_text(text, _FIELDS) for text in inline), options):
        for key, given in layer.items():
            merged[key] = _joined(merged.get(key), given)
    return Effective(_checked(merged, path), {key: given.origin for key, given in merged.items()}, path)


def option_value(key: str, value: object) -> object:
    """What the command line or the environment gives for `key`, as a file would have it."""
    info = _FIELDS[key]
    if not isinstance(value, list | tuple) or get_origin(info.annotation) is not dict:
        return value
    separator = next((mark.separator for mark in info.metadata if isinstance(mark, Entries)), "=")
    table: dict[str, str] = {}
    for entry in value:
        name, found, text = str(entry).rpartition(separator) if separator == ":" else str(entry).partition(separator)
        if not found or not name:
            raise ConfigError(f"--{key} {entry}: not of the form KEY{separator}VALUE")
        if name in table:
            raise ConfigError(f"--{key}: {name} is given twice")
        table[name] = text
    return table


def known_keys() -> frozenset[str]:
    """The keys of a configuration file."""
    return frozenset(_FIELDS)


def _config_options(config: Sequence[str]) -> tuple[Path | None, list[str]]:
    files = [text for text in config if "=" not in text or Path(text).is_file()]
    if len(files) > 1:
        raise ConfigError(f"--config names {len(files)} files", hint="one file, and any number of key=value")
    return (Path(files[0]) if files else None), [text for text in config if text not in files]


def _words(given: object) -> object:
    """Words that may come as one text, comma-separated."""
    if isinstance(given, str):
        return tuple(filter(None, (word.strip() for word in given.split(","))))
    return tuple(given) if isinstance(given, list) else given


def _digits(given: object) -> object:
    """A number may be written as one."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


def _joined(lower: Given | None, upper: Given) -> Given:
    """The upper value, or both where they are tables: each entry of a table is a setting of its own."""
    if lower is None or not isinstance(lower.value, dict) or not isinstance(upper.value, dict):
        return upper
    return Given({**lower.value, **upper.value}, f"{upper.origin} over {lower.origin}")


def _checked(merged: Mapping[str, Given], path: Path | None) -> ValidateSettings:
    text = orjson.dumps({key: given.value for key, given in merged.items()}, option=orjson.OPT_NON_STR_KEYS)
    try:
        return ValidateSettings.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        # The names that pydantic gives to the members of a union are none of the user's.
        where = [str(part) for part in problem["loc"]]
        key = where[0]
        origin = merged[key].origin
        place = place_of(path, key) if path and origin == str(path) else origin
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f"{place}: unknown key {'.'.join(where)}") from None
        said = problem["msg"].replace("Input should be", "must be")
        raise ConfigError(f"{place}: {'.'.join(where)} {said}, not {problem['input']!r}") from None

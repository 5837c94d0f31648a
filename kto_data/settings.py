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

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import orjson

from kto_data.choices import ColorMode, EngineName, FailLevel, ImageLevel, OutputFormat, ProgressMode
from kto_data.config_file import Given, Relative, RelativePatterns, find_config, from_file, from_text, key_of, place_of
from kto_data.errors import ConfigError

DEFAULT = "default"
"""Where a value came from that nobody gave."""

_TRIED = ("int", "float", "str", "ThresholdEntry")
_STRICT: dict[str, Any] = {"strict": True, "extra": "forbid", "alias_generator": key_of}


@dataclass(frozen=True, slots=True)
class Entries:
    """Marks a mapping whose entries are not `KEY=VALUE` on the command line, but written with another separator."""

    separator: str


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Marks a number that must not be smaller."""

    number: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's name for it; pydantic itself is loaded only where there is a file to check."""
        return {**handler(source), "ge": self.number}


Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
FilePath = Annotated[Path | None, Relative()]
Codes = tuple[str, ...] | str
Amount = int | float | str
"""A number, or a share of all rows such as "0.5%"."""


@dataclass(frozen=True, kw_only=True)
class ThresholdEntry:
    """How many findings of a rule are put up with; more of them are warnings, or errors."""

    __pydantic_config__: ClassVar = _STRICT

    warn: Amount = 0
    error: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class SuppressEntry:
    """Findings that somebody has looked at and lives with, and why."""

    __pydantic_config__: ClassVar = _STRICT

    rule: str  # a code, a prefix of codes or a name
    reason: str
    path: str = ""
    row: str = ""  # a record's id or hash, or a fingerprint
    expires: date | None = None


@dataclass(frozen=True, kw_only=True)
class ValidateSettings:
    """Every option of `ktodata validate` that a configuration file may set."""

    __pydantic_config__: ClassVar = _STRICT

    # Input
    paths: Annotated[tuple[str, ...], Relative()] = ()
    format: str = "auto"
    dataset_info: FilePath = None
    dataset: str | None = None
    map: dict[str, str] = field(default_factory=dict)
    split: Annotated[dict[str, str], Relative()] = field(default_factory=dict)
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
    model: Annotated[Path | None, Relative(if_there=True)] = None  # or a hub id
    trust_remote_code: bool = False
    max_length: Positive | None = None
    batch_size: Positive | None = None
    train_config: FilePath = None
    # Rules
    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file_ignores: Annotated[dict[str, Codes], RelativePatterns(), Entries(":")] = field(default_factory=dict)
    severity: dict[str, FailLevel] = field(default_factory=dict)
    thresholds: dict[str, ThresholdEntry | Amount] = field(default_factory=dict)
    suppress: Annotated[tuple[SuppressEntry, ...], RelativePatterns()] = ()
    # Output
    output_format: OutputFormat = "full"
    output_file: FilePath = None
    report: Annotated[tuple[str, ...], Relative(after=":")] = ()
    statistics: bool = False
    show: Count = 5
    thumbnails: bool = False
    redact: bool | None = None
    # Gate
    fail_level: FailLevel = "error"
    exit_zero: bool = False
    baseline: FilePath = None
    new_from: str | None = None
    # Fix
    unsafe_fixes: bool = False
    # Misc
    jobs: Positive | None = None
    engine: EngineName = "local"
    ray_address: str | None = None
    color: ColorMode = "auto"
    progress: ProgressMode = "auto"
    quiet: bool = False
    verbose: bool = False


_HINTS = get_type_hints(ValidateSettings, include_extras=True)
_FIELDS: dict[str, Any] = {key_of(entry.name): _HINTS[entry.name] for entry in dataclasses.fields(ValidateSettings)}


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings of a run, and of each where it came from."""

    settings: ValidateSettings
    origins: Mapping[str, str]  # by key, as it stands in a file
    config_file: Path | None

    def lines(self, *, given_only: bool = False) -> Iterable[str]:
        """`key = value  # origin` for every setting, or those that somebody gave; as TOML where it has the type."""
        for key in _FIELDS:
            if given_only and key not in self.origins:
                continue
            value = getattr(self.settings, key.replace("-", "_"))
            shown = orjson.dumps(value, default=str).decode()
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
    # What Typer took from the command line has its type already; pydantic takes longer to load than a file to check.
    plain = not (path or inline or any(isinstance(given.value, dict) for given in merged.values()))
    settings = _typed(merged) if plain else _checked(merged, path)
    return Effective(settings, {key: given.origin for key, given in merged.items()}, path)


def option_value(key: str, value: object, *, origin: str, form: str) -> object:
    """What the command line or the environment gives for `key`, as a file would have it.

    Raises `ConfigError` where an entry of a table is not of the form that help shows, such as `CODE=LEVEL`; `origin` is
    the option or the variable that gave it.
    """
    kind, *marks = _parts(_FIELDS[key])
    if not isinstance(value, list | tuple) or get_origin(kind) is not dict:
        return value
    separator = next((mark.separator for mark in marks if isinstance(mark, Entries)), "=")
    table: dict[str, str] = {}
    for entry in value:
        name, found, text = str(entry).rpartition(separator) if separator == ":" else str(entry).partition(separator)
        if not found or not name or not text:
            raise ConfigError(f"{origin} {entry} is not {form}", hint=f"write {origin} {form}")
        if name in table:
            raise ConfigError(f"{origin}: {name} is given twice", hint="give it once")
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


def _joined(lower: Given | None, upper: Given) -> Given:
    """The upper value, or both where they are tables: each entry of a table is a setting of its own."""
    if lower is None or not isinstance(lower.value, dict) or not isinstance(upper.value, dict):
        return upper
    return Given({**lower.value, **upper.value}, f"{upper.origin} over {lower.origin}")


def _parts(hint: Any) -> tuple[Any, ...]:
    """A type, and the marks it has."""
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _typed(merged: Mapping[str, Given]) -> ValidateSettings:
    values: dict[str, Any] = {}
    for key, given in merged.items():
        kind = _parts(_FIELDS[key])[0]
        value = tuple(given.value) if isinstance(given.value, list) else given.value
        values[key.replace("-", "_")] = Path(value) if Path in get_args(kind) and isinstance(value, str) else value
    return ValidateSettings(**values)


def _checked(merged: Mapping[str, Given], path: Path | None) -> ValidateSettings:
    from pydantic import TypeAdapter, ValidationError

    entries = (f"{orjson.dumps(key).decode()}: {_as_json(key, given, path)}" for key, given in merged.items())
    try:
        return TypeAdapter(ValidateSettings).validate_json(f"{{{', '.join(entries)}}}")
    except ValidationError as error:
        raise _told(dict(error.errors()[0]), merged, path) from None


def _as_json(key: str, given: Given, path: Path | None) -> str:
    try:
        return orjson.dumps(given.value, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError as error:  # a number of more than 64 bits, half of a character
        raise ConfigError(f"{_place(key, given, path)}: {key} cannot be taken: {error}", hint="mend it") from None


def _place(key: str, given: Given, path: Path | None) -> str:
    return place_of(path, key) if path and given.origin == str(path) else given.origin


def _told(problem: dict[str, Any], merged: Mapping[str, Given], path: Path | None) -> ConfigError:
    where = [str(part) for part in problem["loc"]]
    key, inner = where[0], where[1:]
    place = _place(key, merged[key], path)
    # The types that pydantic tried of a union stand among the keys, and are none of the user's words.
    shown = ".".join([key, *(part for part in inner if part not in _TRIED and "[" not in part)])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(f"{place}: unknown key {shown}")
    if problem["type"] in ("missing", "missing_argument"):
        return ConfigError(f"{place}: {shown} is not set")
    said = problem["msg"].replace("Input should be", "must be")
    return ConfigError(f"{place}: {shown} {said}, not {problem['input']!r}")

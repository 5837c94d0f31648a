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

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_origin

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from kto_data.choices import ColorMode, FailLevel, ImageLevel, OutputFormat, ProgressMode
from kto_data.errors import ConfigError

CONFIG_NAMES = (".ktodata.toml", "ktodata.toml", "pyproject.toml")
"""Of the files in one folder, the first that holds settings counts."""

DEFAULT = "default"
"""Where a value came from that nobody gave."""


@dataclass(frozen=True, slots=True)
class Relative:
    """Marks a field of paths: those in a configuration file start at that file's folder.

    `after`: the path is what stands behind the first of these characters, as in `FORMAT:PATH`.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class RelativePatterns:
    """Marks a field of tables whose keys, or whose `path` entries, are patterns: with a slash they are paths too."""


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
        """"10" is short for `{error = "10"}`."""
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
class Given:
    """A value that somebody gave, and where: the words for it in messages."""

    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings of a run, and of each where it came from."""

    settings: ValidateSettings
    origins: Mapping[str, str]  # by key, as it stands in a file
    config_file: Path | None

    def lines(self) -> Iterable[str]:
        """`key = value  # origin` for every setting, as TOML reads it where it has the type."""
        values = self.settings.model_dump(mode="json", by_alias=True)
        for key, value in values.items():
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
    from_file = [_from_file(path)] if path else []
    merged: dict[str, Given] = {}
    for layer in (*from_file, environment, *map(_from_text, inline), options):
        for key, given in layer.items():
            merged[key] = _joined(merged.get(key), given)
    return Effective(_checked(merged, path), {key: given.origin for key, given in merged.items()}, path)


def find_config(folder: Path) -> Path | None:
    """The nearest file with settings in `folder` or above it. A `pyproject.toml` counts if it has `[tool.ktodata]`."""
    for place in (folder, *folder.parents):
        for name in CONFIG_NAMES:
            path = place / name
            if path.is_file() and (name != "pyproject.toml" or "ktodata" in _read_toml(path).get("tool", {})):
                return path
    return None


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


def _from_file(path: Path) -> dict[str, Given]:
    table = _read_toml(path)
    if path.name == "pyproject.toml":
        table = table.get("tool", {}).get("ktodata", {})
    for key in table:
        if key not in _FIELDS:
            raise _unknown(key, _place(path, key))
    folder = path.parent
    return {key: Given(_rebased(_FIELDS[key], value, folder), str(path)) for key, value in table.items()}


def _from_text(text: str) -> dict[str, Given]:
    key, _, value = (part.strip() for part in text.partition("="))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        try:
            table = tomllib.loads(f"{key} = {orjson.dumps(value).decode()}")
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"--config {text}: not of the form key=value", hint="--config show=10") from None
    origin = f"--config {text}"
    for key in table:
        if key not in _FIELDS:
            raise _unknown(key, origin)
    return {key: Given(value, origin) for key, value in table.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="--config takes a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _rebased(info: FieldInfo, value: object, folder: Path) -> object:
    if any(isinstance(mark, RelativePatterns) for mark in info.metadata):
        return _rebased_patterns(value, folder)
    mark = next((mark for mark in info.metadata if isinstance(mark, Relative)), None)
    if mark is None:
        return value
    if isinstance(value, str):
        return _joined_path(value, mark, folder)
    if isinstance(value, list):
        return [_joined_path(item, mark, folder) if isinstance(item, str) else item for item in value]
    if isinstance(value, dict):
        return {k: _joined_path(item, mark, folder) if isinstance(item, str) else item for k, item in value.items()}
    return value


def _rebased_patterns(value: object, folder: Path) -> object:
    def rebased(pattern: str) -> str:
        return _joined_path(pattern, Relative(), folder) if "/" in pattern else pattern

    if isinstance(value, dict):
        return {rebased(pattern): item for pattern, item in value.items()}
    if isinstance(value, list):
        return [
            {**item, "path": rebased(item["path"])} if isinstance(item, dict) and isinstance(item.get("path"), str)
            else item
            for item in value
        ]  # fmt: skip
    return value


def _words(given: object) -> object:
    """Words that may come as one text, comma-separated."""
    if isinstance(given, str):
        return tuple(filter(None, (word.strip() for word in given.split(","))))
    return tuple(given) if isinstance(given, list) else given


def _digits(given: object) -> object:
    """A number may be written as one."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


def _joined_path(text: str, mark: Relative, folder: Path) -> str:
    before, found, path = text.partition(mark.after) if mark.after else ("", "", text)
    if (mark.after and not found) or path == "-" or "://" in path:
        return text
    return f"{before}{found}{os.path.relpath(folder / path) if not os.path.isabs(path) else path}"


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
        place = _place(path, key) if path and origin == str(path) else origin
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f"{place}: unknown key {'.'.join(where)}") from None
        said = problem["msg"].replace("Input should be", "must be")
        raise ConfigError(f"{place}: {'.'.join(where)} {said}, not {problem['input']!r}") from None


def _unknown(key: str, place: str) -> ConfigError:
    spelt = key.replace("_", "-")
    near = [spelt] if spelt in _FIELDS else difflib.get_close_matches(spelt, _FIELDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "ktodata validate --show-settings lists the keys"
    return ConfigError(f"{place}: unknown key {key}", hint=hint)


def _place(path: Path, key: str) -> str:
    """The file, with the line of the key where it is written plainly."""
    found = re.compile(rf"^\s*(?:\[+(?:tool\.ktodata\.)?)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]", re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    match = found.search(text, max(0, text.find("[tool.ktodata")) if path.name == "pyproject.toml" else 0)
    return f"{path}:{text.count(chr(10), 0, match.end()) + 1}" if match else str(path)

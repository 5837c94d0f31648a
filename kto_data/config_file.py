"""Configuration files: the nearest one, its keys known, its paths made to start at the current folder.

    ktodata.toml, pyproject.toml [tool.ktodata], key=value ─▶ {key: Given(value, origin)}

What the keys are is for `kto_data/settings.py` to say: its fields come in as `fields`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import orjson

from kto_data.errors import ConfigError

Fields = Mapping[str, Any]
"""The keys that a file may have, and the type of each, with its marks."""

CONFIG_NAMES = (".ktodata.toml", "ktodata.toml", "pyproject.toml")
"""Of the files in one folder, the first that holds settings counts."""

_INSTEAD = "mend it, or look for no file: --isolated"


@dataclass(frozen=True, slots=True)
class Relative:
    """Marks a field of paths: those in a configuration file start at that file's folder.

    `after`: the path is what stands behind the first of these characters, as in `FORMAT:PATH`. `if_there`: the text may
    be no path at all, such as the id of a model, and is one where something is there.
    """

    after: str = ""
    if_there: bool = False


@dataclass(frozen=True, slots=True)
class RelativePatterns:
    """Marks a field of tables whose keys, or whose `path` entries, are patterns: with a slash they are paths too."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave, and where: the words for it in messages."""

    value: object
    origin: str


def key_of(name: str) -> str:
    """The key of a field, as it stands in a file."""
    return name.replace("_", "-")


def find_config(folder: Path) -> Path | None:
    """The nearest file with settings in `folder` or above it. A `pyproject.toml` counts if it has `[tool.ktodata]`."""
    for place in (folder, *folder.parents):
        for name in CONFIG_NAMES:
            path = place / name
            if path.is_file() and (name != "pyproject.toml" or has_settings(_read_toml(path))):
                return path
    return None


def has_settings(pyproject: Mapping[str, Any]) -> bool:
    """Whether what a `pyproject.toml` says has `[tool.ktodata]`."""
    tool = pyproject.get("tool")
    return isinstance(tool, dict) and "ktodata" in tool


def from_file(path: Path, fields: Fields) -> dict[str, Given]:
    """The settings of a file. Raises `ConfigError` where it cannot be read, or has a key that is not in `fields`."""
    table = _read_toml(path)
    if path.name == "pyproject.toml":
        table = table["tool"]["ktodata"] if has_settings(table) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.ktodata is no table", hint="begin it with a line [tool.ktodata]")
    for key in table:
        if key not in fields:
            raise _unknown(key, place_of(path, key), fields)
    folder = path.parent
    return {key: Given(_rebased(fields[key], value, folder), str(path)) for key, value in table.items()}


def from_text(text: str, fields: Fields) -> dict[str, Given]:
    """The setting in `key=value`, which is TOML; a bare word is text. Raises `ConfigError` where it is neither."""
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
        if key not in fields:
            raise _unknown(key, origin, fields)
    return {key: Given(value, origin) for key, value in table.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint="--config takes a TOML file, or key=value") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=_INSTEAD) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint=_INSTEAD) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint=_INSTEAD) from None


def _rebased(hint: Any, value: object, folder: Path) -> object:
    marks = get_args(hint)
    if any(isinstance(mark, RelativePatterns) for mark in marks):
        return _rebased_patterns(value, folder)
    mark = next((mark for mark in marks if isinstance(mark, Relative)), None)
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


def _joined_path(text: str, mark: Relative, folder: Path) -> str:
    before, found, path = text.partition(mark.after) if mark.after else ("", "", text)
    if (mark.after and not found) or path == "-" or "://" in path:
        return text
    if os.path.isabs(path) or (mark.if_there and not os.path.lexists(folder / path)):
        return text
    return f"{before}{found}{os.path.relpath(folder / path)}"


def _unknown(key: str, place: str, fields: Fields) -> ConfigError:
    spelt = key.replace("_", "-")
    near = [spelt] if spelt in fields else difflib.get_close_matches(spelt, fields, n=1)
    hint = f"did you mean {near[0]}?" if near else "ktodata validate --show-settings lists the keys"
    return ConfigError(f"{place}: unknown key {key}", hint=hint)


def place_of(path: Path, key: str) -> str:
    """The file, with the line of the key where it is written plainly."""
    found = re.compile(rf"^\s*(?:\[+(?:tool\.ktodata\.)?)?[\"']?{re.escape(key)}[\"']?\s*[=.\]]", re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    match = found.search(text, max(0, text.find("[tool.ktodata")) if path.name == "pyproject.toml" else 0)
    return f"{path}:{text.count(chr(10), 0, match.end()) + 1}" if match else str(path)

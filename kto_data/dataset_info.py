"""LLaMA-Factory's `dataset_info.json`: where a data set lies and which of its columns hold what.

A column that an entry does not map is absent: that is what the file means where it comes from, and so it does here.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import orjson

from kto_data.errors import ConfigError
from kto_data.formats import Format, Layout, Tags
from kto_data.missing import missing_file

_OUR_NAMES = {"kto_tag": "label", "prompt": "instruction", "query": "input", "response": "output"}
_DEFAULT_COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
_PAIR_COLUMNS = ("chosen", "rejected")
_KNOWN_COLUMNS = (
    *("messages", "prompt", "query", "response", "history", "system", "tools", "images", "videos", "audios"),
    *(*_PAIR_COLUMNS, "kto_tag"),
)
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")


def load_dataset_info(path: str | Path, name: str) -> tuple[Layout, Path]:
    """The layout of the data set `name` of the `dataset_info.json` at `path`, and the path of its data file.

    Raises `ConfigError` where the file cannot be read, has no such entry, or the entry cannot be followed.
    """
    entry = _entry(Path(path), name)
    where = f"{path}: data set '{name}'"
    elsewhere = next((key for key in _ELSEWHERE if key in entry), None)
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        if elsewhere is not None:
            raise ConfigError(
                f"{where} is not a local file but at {elsewhere} {entry[elsewhere]!r}",
                hint="download it, and give the entry a file_name",
            )
        raise ConfigError(f"{where} has no file_name", hint="add the name of its data file, relative to this one")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in _DEFAULT_COLUMNS:
        raise ConfigError(
            f"{where}: formatting {formatting!r} is not known", hint=f"known are {', '.join(_DEFAULT_COLUMNS)}"
        )
    columns = _strings(entry.get("columns", _DEFAULT_COLUMNS[formatting]), f"{where}: columns", _KNOWN_COLUMNS)
    tags = _strings(entry.get("tags", {}), f"{where}: tags", Tags.__dataclass_fields__)
    ranking = entry.get("ranking", False)
    if not isinstance(ranking, bool):
        raise ConfigError(f"{where}: ranking is {ranking!r}", hint="it must be true or false")
    if ranking and not all(side in columns for side in _PAIR_COLUMNS):
        raise ConfigError(f"{where} is a ranking, but maps no chosen and rejected columns", hint="add them to columns")
    layout = Layout(
        format=Format.PAIRED if ranking else Format(formatting),
        columns={_OUR_NAMES.get(column, column): user for column, user in columns.items()},
        tags=Tags(**tags),
        mapped_only=True,
    )
    return layout, Path(path).parent / file_name


def _entry(path: Path, name: str) -> dict[str, Any]:
    try:
        entries = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise missing_file(str(path), ConfigError) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="name the dataset_info.json itself") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint="mend it at that place") from None
    if not isinstance(entries, dict):
        raise ConfigError(f"{path} is not a JSON object", hint="it must map the names of data sets to their entries")
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        local = [key for key, entry in entries.items() if isinstance(entry, dict) and "file_name" in entry]
        hint = f"did you mean '{near[0]}'?" if near else f"data sets with a local file: {', '.join(local) or 'none'}"
        raise ConfigError(f"{path} has no data set '{name}'", hint=hint)
    entry = entries[name]
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: the entry of data set '{name}' is not an object", hint='{"file_name": "…"}')
    return entry


def _strings(value: Any, where: str, known: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not an object", hint="it must map names to column names")
    for key, item in value.items():
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            raise ConfigError(
                f"{where}: unknown key '{key}'",
                hint=f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}",
            )
        if not isinstance(item, str):
            raise ConfigError(f"{where}: {key} is {item!r}", hint="it must be a string")
    return value

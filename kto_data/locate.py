"""Where on its line a value stands: the column that editors and code hosts jump to. The home of json-source-map.

The line is read again, so this is for findings that are shown, not for all of them.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache

from kto_data.local_copy import copy_made

_MOST_BYTES = 1 << 18  # a longer line is not looked into: its columns help nobody, and take seconds
_SUFFIXES = (".jsonl", ".json")  # where a byte offset leads to the line itself


def column(path: str, byte_offset: int | None, pointer: str) -> int | None:
    """The 1-based column, in characters (Unicode code points), of the value at `pointer` of a record.

    `path` and `byte_offset` say where the record's line starts. Of a value that is not there it is the column of the
    nearest thing around it. None where that is the whole record, and where the line cannot be read again: compressed
    files, Parquet, standard input, records of an array that share a line or take several.
    """
    if byte_offset is None or not pointer or not path.lower().endswith(_SUFFIXES):
        return None
    try:
        path = copy_made(path) or path
        changed = os.stat(path).st_mtime_ns
    except (OSError, ValueError):  # gone since, or no file of this machine
        return None
    starts = _value_starts(path, changed, byte_offset)
    while pointer:
        start = starts.get(_as_written(pointer, ascii_only=False)) or starts.get(_as_written(pointer, ascii_only=True))
        if start is not None:
            return start
        pointer = pointer.rpartition("/")[0]
    return None


@lru_cache(maxsize=256)  # the findings of one line follow one another, and several reports name the same lines
def _value_starts(path: str, changed: int, byte_offset: int) -> dict[str, int]:
    """Pointer, its keys spelt as the line spells them, -> column. Empty where the line is no record by itself."""
    from json_source_map import calculate
    from json_source_map.errors import BaseError

    try:
        with open(path, "rb") as file:
            file.seek(max(0, byte_offset - 1))
            starts_line = byte_offset == 0 or file.read(1) == b"\n"
            raw = file.readline(_MOST_BYTES + 1)
    except OSError:
        return {}
    if not starts_line or len(raw) > _MOST_BYTES:
        return {}
    try:
        line = raw.decode().removeprefix("\ufeff").rstrip().removesuffix(",")  # a comma between records of an array
        entries = calculate(line)
    except (ValueError, RecursionError, BaseError):  # not UTF-8, a number of 5,000 digits; deep nesting; no JSON
        return {}
    return {pointer: entry.value_start.column + 1 for pointer, entry in entries.items()}


def _as_written(pointer: str, *, ascii_only: bool) -> str:
    """`pointer` with its keys as JSON text: the source map does not undo escapes."""
    tokens = (token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/"))
    return "/".join(json.dumps(token, ensure_ascii=ascii_only)[1:-1] for token in tokens)

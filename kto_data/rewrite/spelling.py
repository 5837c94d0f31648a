"""One row in canonical spelling, and what had to be changed for it.

What the row says stays: validation reads the same records, with the same labels, from the canonical lines as from the
row. A row that is canonical as it stands is written as it stands.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from kto_data.convert import convert
from kto_data.draft import UNREAD, user_pointer
from kto_data.fields import IMAGE_PLACEHOLDER, RECORD_FIELDS
from kto_data.formats import Format, Layout
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.row import Row

_STRING_OR_SPACE = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+', re.DOTALL)
_WIDE_NUMBER = re.compile(rb"[0-9]{17}")  # perhaps wider than 64 bits, which orjson would make a float of


class ChangeKind(StrEnum):
    """What can be changed. The detail says at what: `gpt -> assistant`, or a name."""

    FORMAT = "format"
    COLUMN = "column"
    ROLE = "role"
    PAIR = "pair split in two"
    PLACEHOLDER = "image placeholder added"
    METADATA = "put under metadata"
    LEFT_OUT = "left out"
    BYTE_ORDER_MARK = "byte order mark removed"
    BLANK_LINE = "blank line left out"


Change = tuple[ChangeKind, str]


@dataclass(frozen=True, slots=True)
class Spelling:
    """The canonical lines of a row, without line ends, and how often each change was made for them."""

    lines: tuple[bytes, ...]
    changes: Counter[Change]


def on_one_line(raw: bytes) -> bytes:
    """The JSON text with its spaces, if it has no line breaks; else without either."""
    if b"\n" not in raw and b"\r" not in raw:
        return raw
    return _STRING_OR_SPACE.sub(lambda match: match[1] or b"", raw)


def respell(rows: Sequence[Row], layout: Layout) -> Spelling:
    """A row, as it was read, in canonical spelling; its records must be objects and its text sound."""
    raw = rows[0].line.raw.removeprefix(BYTE_ORDER_MARK)
    given = json.loads(raw) if _WIDE_NUMBER.search(raw) else orjson.loads(raw)
    converted = convert(given, layout)
    if converted[0].value is given and not any(error.type == "extra_forbidden" for error in rows[0].schema_errors):
        return Spelling((on_one_line(raw),), Counter())
    changes: Counter[Change] = Counter()
    lines = []
    for row, made in zip(rows, converted, strict=True):
        of_record = Counter(_changes(row, made.value, given, layout))
        value = made.value
        if row.record is not None:
            value, tidied = _tidied(row, made.value)
            of_record.update(tidied)
        changes |= of_record  # what both records of a pair share is one change
        lines.append(_dump(value))
    if len(rows) > 1:
        changes[ChangeKind.PAIR, ""] = 1
    return Spelling(tuple(lines), changes)


def _changes(row: Row, value: dict[str, Any], given: dict[str, Any], layout: Layout) -> Iterator[Change]:
    if row.format != Format.MESSAGES:
        yield ChangeKind.FORMAT, f"{row.format} -> {Format.MESSAGES}"
    for column, field in _columns(row, value, given):
        yield ChangeKind.COLUMN, f"{column} -> {field}"
    messages = value.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            yield from _message_changes(row, index, message, given)
    if layout.mapped_only:
        for column in given.keys() - set(layout.columns.values()):
            yield ChangeKind.LEFT_OUT, column


def _columns(row: Row, value: dict[str, Any], given: dict[str, Any]) -> list[tuple[str, str]]:
    """The columns that went to a field of another name, once each."""
    pairs = {
        (_first(user), _first(canonical))
        for canonical, user in row.pointers.items()
        if _first(user) in given and _first(canonical) in value
    }
    return sorted((column, field) for column, field in pairs if column != field)


def _message_changes(row: Row, index: int, message: dict[str, Any], given: dict[str, Any]) -> Iterator[Change]:
    here = f"/messages/{index}"
    role_pointer, content_pointer = (user_pointer(row.pointers, f"{here}/{name}") for name in ("role", "content"))
    role, content = _at(given, role_pointer), _at(given, content_pointer)
    if role_pointer != content_pointer and isinstance(role, str) and role != message.get("role"):
        yield ChangeKind.ROLE, f"{role} -> {message.get('role')}"
    now = message.get("content")
    if isinstance(content, str) and isinstance(now, str) and now.endswith(content):
        for _ in range(now[: len(now) - len(content)].count(IMAGE_PLACEHOLDER) if row.image_paths else 0):
            yield ChangeKind.PLACEHOLDER, ""


def _tidied(row: Row, value: dict[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """The record with its known fields in their order, and all others under `metadata`; what no message or part can
    hold is left out."""
    changes: list[Change] = []
    for error in row.schema_errors:
        if error.type == "extra_forbidden" and error.pointer.count("/") > 1 and not error.pointer.startswith(UNREAD):
            parent, _, name = error.pointer.rpartition("/")
            _at(value, parent).pop(_unescaped(name), None)
            changes.append((ChangeKind.LEFT_OUT, f"{_unescaped(name)} of a message"))
    others = {name: item for name, item in value.items() if name not in RECORD_FIELDS}
    for pointer in (error.pointer for error in row.schema_errors if error.pointer.startswith(f"{UNREAD}/")):
        changes.append((ChangeKind.LEFT_OUT, pointer.removeprefix(f"{UNREAD}/")))
    record = {name: value[name] for name in RECORD_FIELDS if name in value}
    if others:
        metadata = dict(record.get("metadata") or {})
        for name, item in others.items():
            changes.append((ChangeKind.METADATA, name))
            while name in metadata:
                name += "_"
            metadata[name] = item
        record["metadata"] = metadata
    return record, changes


def _dump(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer wider than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _at(value: Any, pointer: str) -> Any:
    """The value at a JSON Pointer; None where there is none."""
    for token in pointer.split("/")[1:]:
        if isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        elif isinstance(value, dict):
            value = value.get(_unescaped(token))
        else:
            return None
    return value


def _first(pointer: str) -> str:
    return _unescaped(pointer.split("/")[1])


def _unescaped(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")

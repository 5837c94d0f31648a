"""One line as far as it could be read: what row rules look at.

A row that is broken in one place is still checked in every other: the accessors hand out what is well formed and
leave out what is not, so that one pass finds all there is to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import xxhash

from kto_data.chunk import Line
from kto_data.draft import user_pointer
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.safe_text import encodable

if TYPE_CHECKING:
    from kto_data.record import Record


class SyntaxProblem(StrEnum):
    """What can be wrong with the bytes of a line, before its fields are looked at."""

    INVALID_JSON = "invalid json"
    INVALID_UTF8 = "invalid utf-8"
    BLANK_LINE = "blank line"
    DUPLICATE_KEY = "duplicate key"
    BYTE_ORDER_MARK = "byte order mark"
    NOT_AN_OBJECT = "not an object"
    NON_FINITE_NUMBER = "non-finite number"
    LONE_SURROGATE = "lone surrogate"


@dataclass(frozen=True, slots=True)
class SyntaxFact:
    """One such problem; `pointer` in the user's own spelling."""

    problem: SyntaxProblem
    message: str
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class SchemaError:
    """One mismatch between the canonical value and `Record`, from pydantic."""

    type: str  # pydantic's error type: "missing", "extra_forbidden", "string_type", …
    pointer: str  # JSON Pointer in canonical spelling; in the user's for columns that only his format has
    message: str
    value: Any  # None where the type is "missing"


@dataclass(frozen=True, slots=True)
class MessageView:
    """What is well formed of one message."""

    index: int
    role: str | None  # None where it is missing or not a string
    text: str | None  # joined, with a placeholder for each image; None where the content is not well formed
    num_images: int  # image placeholders


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sample of one line (a paired line gives two), in canonical spelling."""

    line: Line
    value: Any  # the object in canonical spelling; None where there is none
    facts: tuple[SyntaxFact, ...] = ()
    schema_errors: tuple[SchemaError, ...] = ()
    record: Record | None = None  # set when the value satisfies the schema, unknown fields apart, and the text is sound
    format: str = "messages"  # the format it was written in
    unmapped_images: bool = False  # it has images, but the column mapping leaves them out
    pointers: Mapping[str, str] = field(default_factory=dict)  # canonical -> the user's, where they differ

    @cached_property
    def messages(self) -> tuple[MessageView, ...]:
        """The messages that are objects, with what is well formed of each."""
        messages = self.value.get("messages") if isinstance(self.value, dict) else None
        if not isinstance(messages, list):
            return ()
        return tuple(_view(index, message) for index, message in enumerate(messages) if isinstance(message, dict))

    @cached_property
    def image_paths(self) -> tuple[tuple[int, str], ...]:
        """The entries of `images` that are strings, each with its index."""
        images = self.value.get("images") if isinstance(self.value, dict) else None
        if not isinstance(images, list):
            return ()
        return tuple((index, path) for index, path in enumerate(images) if isinstance(path, str))

    @property
    def num_images(self) -> int | None:
        """How many images the record has, well formed or not; None where `images` is no list."""
        images = self.value.get("images", []) if isinstance(self.value, dict) else None
        return len(images) if isinstance(images, list) else None

    @property
    def label(self) -> bool | None:
        """The label, where it is one."""
        label = self.value.get("label") if isinstance(self.value, dict) else None
        return label if isinstance(label, bool) else None

    @property
    def source(self) -> str:
        """The record's own `source`; empty where it names none."""
        source = self.value.get("source") if isinstance(self.value, dict) else None
        return encodable(source) if isinstance(source, str) else ""

    @property
    def record_id(self) -> str | None:
        """The record's own `id`, where it has one, fit to be printed."""
        value = self.value.get("id") if isinstance(self.value, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        return encodable(str(value))

    @property
    def row_hash(self) -> str:
        """16 hex digits over the raw bytes of the line."""
        return hash_row(self.line.raw)

    def user_pointer(self, canonical: str) -> str:
        """A JSON Pointer into `value` as a pointer into the record as the user wrote it, fit to be printed."""
        return encodable(user_pointer(self.pointers, canonical))


def hash_row(raw: bytes) -> str:
    """16 hex digits over the raw bytes of a line."""
    return xxhash.xxh3_64_hexdigest(raw)


def _view(index: int, message: dict[str, Any]) -> MessageView:
    role, content = message.get("role"), message.get("content")
    text, num_images = None, 0
    if isinstance(content, str):
        text, num_images = content, content.count(IMAGE_PLACEHOLDER)
    elif isinstance(content, list) and all(map(_is_part, content)):
        num_images = sum(part["type"] == "image" for part in content)
        text = "".join(IMAGE_PLACEHOLDER if part["type"] == "image" else part["text"] for part in content)
    return MessageView(index=index, role=role if isinstance(role, str) else None, text=text, num_images=num_images)


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    return part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))

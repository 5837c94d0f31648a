"""One line as far as it could be read: what row rules look at.

A row that is broken in one place is still checked in every other: the accessors hand out what is well formed and
leave out what is not, so that one pass finds all there is to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kto_data.record import Record
from kto_data.source import Line


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
    pointer: str  # JSON Pointer in canonical spelling
    message: str
    value: Any


@dataclass(frozen=True, slots=True)
class MessageView:
    """What is well formed of one message."""

    index: int
    role: str | None  # None where it is missing or not a string
    text: str | None  # all its text joined; None where the content is missing or of a wrong type
    num_images: int  # image placeholders


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample of one line (a paired line gives two), in canonical spelling."""

    line: Line
    value: Any  # parsed JSON in canonical spelling; None where nothing could be parsed
    facts: tuple[SyntaxFact, ...] = ()
    schema_errors: tuple[SchemaError, ...] = ()
    record: Record | None = None  # set when the value satisfies the schema
    format: str = "messages"  # the format it was written in
    unmapped_images: bool = False  # it has images, but the column mapping leaves them out

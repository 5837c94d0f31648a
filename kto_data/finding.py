"""What a rule says about data.

A finding is a value, never an exception: data is allowed to be wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

Scalar = str | int | float | bool
"""What the data of a finding consists of."""


class Severity(StrEnum):
    """How much a finding matters, worst first."""

    ERROR = "error"  # cannot be trained on: `preprocess` refuses the record
    WARNING = "warning"  # can be trained on, but someone should look
    INFO = "info"  # worth knowing

    @property
    def rank(self) -> int:
        """0 for the worst; what sorting and fail levels compare."""
        return list(Severity).index(self)

    def at_least(self, level: Severity) -> bool:
        """Whether this severity is as bad as `level` or worse."""
        return self.rank <= level.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a finding is. `line` is None for what is true of a whole file or of the whole dataset."""

    path: str
    line: int | None = None  # physical line, 1-based, as editors count
    byte_offset: int | None = None  # of the record's first byte, in the (decompressed) file
    pointer: str = ""  # JSON Pointer (RFC 6901) inside the record, in the record's own spelling

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect of one record, file or dataset."""

    code: str
    severity: Severity
    location: Location
    message: str
    record_id: str | None = None  # the record's own `id`, if it has one
    row_hash: str | None = None  # 16 hex digits over the raw bytes of the record
    fingerprint: str = ""  # the same wherever the record stands and however it is spaced
    quotes: tuple[str, ...] = ()  # pieces of `message` that are content of the record
    data: tuple[tuple[str, Scalar], ...] = ()  # the numbers and names that `message` is made of, for machines

    def redacted(self) -> Finding:
        """The finding without a word of the record's content: for logs that more people read than the data."""
        quotes = sorted(filter(None, self.quotes), key=len, reverse=True)  # one quote may be part of another
        message = re.sub("|".join(_whole(quote, self.message) for quote in quotes), _black_out, self.message)
        data = tuple((name, _black_out(value) if value in quotes else value) for name, value in self.data)
        return replace(self, message=message if quotes else self.message, quotes=(), data=data, record_id=None)

    def sort_key(self) -> tuple[str, int, str, str]:
        """Order of printing: file, line, code, pointer."""
        return (self.location.path, self.location.line or 0, self.code, self.location.pointer)


def _whole(quote: str, message: str) -> str:
    """A pattern for `quote` in `message`: as words of its own, so that an `a` does not riddle the text around it."""
    words = rf"(?<!\w){re.escape(quote)}(?!\w)"
    return words if re.search(words, message) else re.escape(quote)


def _black_out(quote: object) -> str:
    text = quote[0] if isinstance(quote, re.Match) else str(quote)
    return f"[{len(text):,} character{'s' if len(text) != 1 else ''}]"

"""Where the records of a JSON array lie, found without parsing them.

Elements are the texts between the commas of the outermost array, whatever they hold: a broken element is handed on as
it is written, and the parser says at its place what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_RECORD_BYTES = 1 << 27
"""Bytes up to which a record is read: a longer one is none, and would fill the memory."""
TOO_LONG = f"the record has more than {MAX_RECORD_BYTES:,} bytes"

MAX_COMMAS = 200_000
"""Commas up to which a record is read: with more values, each with a finding perhaps, it would fill the memory."""

_READ_BYTES = 1 << 20
_MAX_DEPTH = 100_000  # far beyond what is called too deep of a record by itself, and found within a second
_TOO_DEEP = f"the record is nested more than {_MAX_DEPTH:,} levels deep"
_SPACE = b" \t\r\n"
_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_BACKSLASH = ord("\\")
_BRACKET = re.compile(rb"[\[\]{}]")
_BRACKET_OR_COMMA = re.compile(rb"[\[\]{},]")
_OPENING = (b"[", b"{")
_PIECE = 256  # bytes looked at in one go: an element may end with the first of them, and the next be as short
_SHORT = 64  # bytes up to which what stands between two strings is remembered


class Span(NamedTuple):
    """The place of one record in the file: physical line, first byte, the byte after the last."""

    line: int
    start: int
    stop: int
    problem: str = ""  # what is broken in the array itself, where this is no record
    after_mark: bool = False  # the file starts with a byte order mark, and this is its first record


class UnreadableArrayError(Exception):
    """An array with a record whose end is not looked for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.line = 1  # that the record begins on


def is_too_large(raw: bytes) -> bool:
    """Whether a record has so many values that it must not be parsed."""
    return len(raw) > MAX_COMMAS and raw.count(b",") > MAX_COMMAS


class _Window:
    """The part of a file that is being looked at; it moves forward and grows where one record is larger."""

    def __init__(self, file: BinaryIO) -> None:
        self.data = b""
        self.start = 0  # of `data` in the file
        self._file = file

    def grow(self, keep_from: int) -> bool:
        """Forget what is before `keep_from` and read on. False at the end of the file, where nothing changes."""
        size = len(self.data) - keep_from
        if size > MAX_RECORD_BYTES:
            raise UnreadableArrayError(TOO_LONG)
        more = self._file.read(max(_READ_BYTES, size))
        if more:
            self.data, self.start = self.data[keep_from:] + more, self.start + keep_from
        return bool(more)


def spans(file: BinaryIO) -> Iterator[tuple[Span, bytes]]:
    """The records of the array in `file` with their bytes, in order; the whole of it where it is a single value.

    What breaks the array itself comes as a span with a `problem`.
    """
    window = _Window(file)
    window.grow(0)
    marked = window.data.startswith(BYTE_ORDER_MARK)
    position, line = _skip_space(window, len(BYTE_ORDER_MARK) if marked else 0, 1)
    if window.data[position : position + 1] != b"[":
        while window.grow(position):
            position = 0
        text = window.data[position:].rstrip(_SPACE)
        if text:
            start = window.start + position
            yield Span(line, start, start + len(text), after_mark=marked), text
        return
    is_first = True
    while True:
        position, line = _skip_space(window, position + 1, line)
        try:
            stop, is_whole = _element_end(window.data, position)
            while stop == len(window.data) and window.grow(position):
                position = 0
                stop, is_whole = _element_end(window.data, 0)
        except UnreadableArrayError as error:
            error.line = line
            raise
        text = window.data[position:stop]
        closing = window.data[stop : stop + 1]
        start, num_newlines = window.start + position, text.count(b"\n") if b"\n" in text else 0
        text = text.rstrip(_SPACE)
        if text:
            yield Span(line, start, start + len(text), after_mark=marked and is_first), text
        elif closing == b"," or (closing == b"]" and not is_first):
            yield Span(line, start, start, f"a comma too many: no record before this '{closing.decode()}'"), b""
        line += num_newlines
        position, is_first = stop, False
        if closing != b",":
            break
    if closing == b"]":
        yield from _rest(window, position, line)
    elif is_whole:
        start = window.start + position
        yield Span(line, start, start, "the file ends before the array does: ']' is missing"), b""


def _rest(window: _Window, position: int, line: int) -> Iterator[tuple[Span, bytes]]:
    """What stands behind the array, with its bracket, so that it cannot be taken for a record."""
    while window.grow(position):
        position = 0
    text = window.data[position:].rstrip(_SPACE)
    if len(text) > 1:
        start = window.start + position
        yield Span(line, start, start + len(text), "text after the end of the array"), text


def _skip_space(window: _Window, position: int, line: int) -> tuple[int, int]:
    """The next position that is no space, and its line."""
    while True:
        found = _NO_SPACE.search(window.data, position)
        stop = found.start() if found else len(window.data)
        line += window.data.count(b"\n", position, stop)
        if found or not window.grow(stop):
            return stop, line
        position = 0


def _element_end(data: bytes, start: int) -> tuple[int, bool]:
    """Where the element that begins at `start` ends, which is at the comma or bracket after it, or with the data.

    Also whether it is whole: all its brackets and strings are closed.
    """
    depth, position = 0, start
    find, shapes = data.find, _shapes
    while True:
        quote = find(b'"', position, position + _PIECE)
        between = data[position : quote if quote >= 0 else position + _PIECE]
        lowest, change = (shapes.get(between) or _shape(between)) if depth else (0, 0)
        if depth + lowest > 0:
            depth += change
            if depth > _MAX_DEPTH:
                raise UnreadableArrayError(_TOO_DEEP)
        else:
            # The element may end here.
            for token in _BRACKET_OR_COMMA.finditer(between):
                mark = token[0]
                if depth == 0 and mark in (b",", b"]"):
                    return position + token.start(), True
                if mark in _OPENING:
                    depth += 1
                    if depth > _MAX_DEPTH:
                        raise UnreadableArrayError(_TOO_DEEP)
                elif mark != b",":
                    depth = max(0, depth - 1)  # a brace too many is part of the element, and no way out of it
        if quote < 0:
            position += len(between)
            if position == len(data):
                return position, depth == 0
            continue
        end = find(b'"', quote + 1)
        while end > 0 and data[end - 1] == _BACKSLASH and _is_escaped(data, end):
            end = find(b'"', end + 1)
        if end < 0:
            return len(data), False
        position = end + 1


def _is_escaped(data: bytes, quote: int) -> bool:
    """Whether an odd number of backslashes stands before the quotation mark."""
    first = quote
    while data[first - 1] == _BACKSLASH:
        first -= 1
    return (quote - first) % 2 == 1


_shapes: dict[bytes, tuple[int, int]] = {}
"""What stands between strings -> how far it goes down, and how much it changes the depth. Few kinds, over and over."""


def _shape(between: bytes) -> tuple[int, int]:
    depth = lowest = 0
    for mark in _BRACKET.findall(between):
        depth += 1 if mark in _OPENING else -1
        lowest = min(lowest, depth)
    if len(between) <= _SHORT and len(_shapes) < 10_000:
        _shapes[between] = (lowest, depth)
    return lowest, depth

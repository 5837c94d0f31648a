"""Where the records of a JSON array lie, found without parsing them.

Elements are the texts between the commas of the outermost array, whatever they hold: a broken element is handed on as
it is written, and the parser says at its place what is wrong with it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"

# Possessive throughout: nothing is ever tried twice, so time is linear and memory constant whatever the input.
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NESTED = rb"(?!)"
for _ in range(5):  # records are three levels deep; whatever is deeper than this takes the slow way
    _NESTED = rb'[\[{](?:[^\[\]{}"]++|' + _STRING + rb"|" + _NESTED + rb")*+[\]}]"
_ELEMENT = re.compile(rb'(?:[^\[\]{}",]++|' + _STRING + rb"|" + _NESTED + rb")*+", re.DOTALL)
_TOKEN = re.compile(_STRING + rb'|[\[\]{}",]', re.DOTALL)
_SPACES = re.compile(rb"[ \t\r\n]*+")

Buffer = bytes | mmap.mmap


class Span(NamedTuple):
    """The place of one record in the file: physical line, first byte, the byte after the last."""

    line: int
    start: int
    stop: int
    problem: str = ""  # what is broken in the array itself, where this is no record
    after_mark: bool = False  # the file starts with a byte order mark, and this is its first record

    def raw(self, data: bytes, data_start: int = 0) -> bytes:
        """The record's bytes out of `data`, which begins at byte `data_start` of the file.

        A byte order mark before the array is put before its first record, so that it is seen and reported.
        """
        raw = data[self.start - data_start : self.stop - data_start]
        return BYTE_ORDER_MARK + raw if self.after_mark else raw


def spans(data: Buffer) -> Iterator[Span]:
    """The records of the array in `data`, in order; the whole of it where it is no array but a single value.

    What breaks the array itself comes as a span with a `problem`.
    """
    marked = data[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK
    start = _skip_space(data, len(BYTE_ORDER_MARK) if marked else 0)
    line = 1 + data[:start].count(b"\n")
    if data[start : start + 1] != b"[":
        stop = start + len(data[start:].rstrip(_SPACE))
        if stop > start:
            yield Span(line, start, stop, after_mark=marked)
        return
    bracket, num_spans = start, 0
    while True:
        start = _skip_space(data, bracket + 1)
        line += data[bracket:start].count(b"\n")
        stop, whole = _element_end(data, start)
        text = data[start:stop]
        closing = data[stop : stop + 1]
        length = len(text.rstrip(_SPACE))
        if length:
            yield Span(line, start, start + length, after_mark=marked and num_spans == 0)
        elif closing == b"," or (closing == b"]" and num_spans):
            yield Span(
                line, start, start, f"the array has a comma too many: no record before this '{closing.decode()}'"
            )
        num_spans += 1
        line += text.count(b"\n")
        if closing != b",":
            break
        bracket = stop
    if closing == b"]":
        rest = data[stop + 1 :]
        if rest.strip(_SPACE):
            yield Span(line, stop, stop + 1 + len(rest.rstrip(_SPACE)), "text after the end of the array")
    elif whole:
        yield Span(line, stop, stop, "the file ends before the array does: ']' is missing")


def _skip_space(data: Buffer, start: int) -> int:
    match = _SPACES.match(data, start)
    assert match
    return match.end()


def _element_end(data: Buffer, start: int) -> tuple[int, bool]:
    """Where the element that begins at `start` ends (at its comma or bracket, or the end), and whether it is closed."""
    match = _ELEMENT.match(data, start)
    assert match
    stop = match.end()
    if stop == len(data) or data[stop] in b",]":
        return stop, True
    depth = 0
    for token in _TOKEN.finditer(data, start):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b",", b"]") and depth == 0:
            return token.start(), True
        elif mark in (b"]", b"}"):
            depth = max(0, depth - 1)  # a bracket too many is part of the element, and no way out of the array
        elif mark == b'"':  # a string that is never closed takes the rest of the file with it
            break
    return len(data), False

"""Pieces of a JSON text, found by JSON Pointer and replaced: every other byte of the text stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kto_data.json_array import BYTE_ORDER_MARK

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class Span(NamedTuple):
    """A piece of a text: its first byte, and the byte after its last."""

    start: int
    stop: int


class Splice(NamedTuple):
    """Bytes to be put in the place of a piece."""

    span: Span
    text: bytes


def apply(raw: bytes, splices: Iterable[Splice]) -> bytes:
    """`raw` with the splices in it. Of two that overlap, the one that begins first is made."""
    pieces, done = [], 0
    for span, text in sorted(set(splices)):
        if span.start >= done:
            pieces += [raw[done : span.start], text]
            done = span.stop
    return b"".join((*pieces, raw[done:]))


def find(raw: bytes, pointer: str) -> Span | None:
    """Where the value at `pointer` stands in the JSON text `raw`; of a key that is written twice, the last value, which
    is the one that parsers keep. None where there is no such value, or no JSON."""
    here = _next(raw, len(BYTE_ORDER_MARK) if raw.startswith(BYTE_ORDER_MARK) else 0)
    for token in pointer.split("/")[1:]:
        if here is None:
            return None
        name = token.replace("~1", "/").replace("~0", "~")
        found = [value for key, value in _children(raw, here) if key == name]
        here = found[-1] if found else None
    return here if here is None else Span(here.start, _end(raw, here))


def decode(raw: bytes, span: Span) -> Any:
    """The value of a piece; None where it cannot be read (and of null)."""
    try:
        return json.loads(raw[span.start : span.stop])
    except (ValueError, RecursionError):  # no JSON, or no UTF-8; deep nesting
        return None


def encode_as(value: Any, before: bytes) -> bytes:
    """`value` as JSON, its letters beyond ASCII written as in the piece `before` that it replaces."""
    is_escaped = before.isascii() and b"\\u" in before
    return json.dumps(value, ensure_ascii=is_escaped).encode()


def strings(raw: bytes) -> Iterator[Span]:
    """All strings of a JSON text, keys too."""
    for token in _STRING.finditer(raw):
        yield Span(*token.span())


def _next(raw: bytes, position: int) -> Span | None:
    """The next token: a string, a number or word, a bracket, a colon, a comma."""
    token = _TOKEN.search(raw, position)
    return Span(*token.span()) if token else None


def _children(raw: bytes, opening: Span) -> Iterator[tuple[str, Span]]:
    """The keys (or indices) of the object (or list) whose first token is `opening`, and their values' first tokens."""
    is_object = raw[opening.start : opening.stop] == b"{"
    if not is_object and raw[opening.start : opening.stop] != b"[":
        return
    index, token = 0, _next(raw, opening.stop)
    while token is not None and raw[token.start : token.stop] not in (b"}", b"]"):
        key, value = str(index), token
        if is_object:
            key = str(decode(raw, token))
            colon = _next(raw, token.stop)
            after = _next(raw, colon.stop) if colon else None
            if after is None:
                return
            value = after
        yield key, value
        index += 1
        token = _next(raw, _end(raw, value))
        if token is not None and raw[token.start : token.stop] == b",":
            token = _next(raw, token.stop)


def _end(raw: bytes, first: Span) -> int:
    """Where the value ends whose first token is `first`."""
    if raw[first.start : first.stop] not in (b"{", b"["):
        return first.stop
    depth = 1
    for token in _TOKEN.finditer(raw, first.stop):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if not depth:
                return token.end()
    return len(raw)

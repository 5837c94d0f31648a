"""The lines of a file of JSON lines, byte for byte, and how two versions of it differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.source import Source


def raw_lines(source: Source) -> Iterator[bytes]:
    """The lines with their ends."""
    for chunk in source.chunks():
        yield from chunk.raw_lines()


def is_row(raw: bytes) -> bool:
    """Whether a line holds a row: all but blank ones do."""
    return bool(raw.removeprefix(BYTE_ORDER_MARK).strip())


def without_end(line: bytes) -> bytes:
    """The row of a line, as `Chunk.lines` gives it."""
    return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")


def unified_diff(before: Source, after: Source, origins: Sequence[int]) -> Iterator[bytes]:
    """The way from one version to the other as `patch` reads it, without lines of context: rows are long.

    `origins`: for each line of `after`, the line of `before` that it was.
    """
    hunks = _hunks(before, after, origins) if _is_ascending(origins) else _whole(before, after, len(origins))
    first = next(hunks, None)
    if first is not None:
        name = _name(before.path)
        yield b"--- " + name + b"\n+++ " + name + b"\n"
        yield from chain(first, chain.from_iterable(hunks))


def _name(path: str) -> bytes:
    """A file name as `patch` reads it: within quotes where it has characters that would end it."""
    name = path.encode(errors="surrogateescape")
    if any(byte < 0x20 or byte in b'"\\\x7f' for byte in name):
        return b'"' + b"".join(_quoted(byte) for byte in name) + b'"'
    return name + b"\t" if b" " in name else name


def _quoted(byte: int) -> bytes:
    if byte in b'"\\':
        return b"\\" + bytes([byte])
    return b"\\%03o" % byte if byte < 0x20 or byte >= 0x7F else bytes([byte])


def _is_ascending(origins: Sequence[int]) -> bool:
    return all(origins[index] < origins[index + 1] for index in range(len(origins) - 1))


def _hunks(before: Source, after: Source, origins: Sequence[int]) -> Iterator[list[bytes]]:
    """The runs of lines that are not the same; each line of `before` is there again, or gone."""
    new, number_of = raw_lines(after), iter(origins)
    origin = next(number_of, 0)
    old_line, new_line = 1, 1  # where the hunk at hand starts
    removed: list[bytes] = []
    added: list[bytes] = []
    number = 0
    for number, old in enumerate(raw_lines(before), start=1):
        line = None
        if number == origin:
            line, origin = next(new), next(number_of, 0)
        if line == old:
            if removed or added:
                yield _hunk(old_line, removed, new_line, added)
            new_line += len(added) + 1
            old_line, removed, added = number + 1, [], []
            continue
        removed.append(old)
        if line is not None:
            added.append(line)
    if removed or added:
        yield _hunk(old_line, removed, new_line, added)


def _hunk(old_line: int, removed: list[bytes], new_line: int, added: list[bytes]) -> list[bytes]:
    head = f"@@ -{_range(old_line, len(removed))} +{_range(new_line, len(added))} @@\n".encode()
    return [head, *(_marked(b"-", line) for line in removed), *(_marked(b"+", line) for line in added)]


def _whole(before: Source, after: Source, num_after: int) -> Iterator[Iterator[bytes]]:
    """One hunk: all that was there, and all that is, where rows have moved."""
    num_before = sum(1 for _ in raw_lines(before))
    yield iter([f"@@ -{_range(1, num_before)} +{_range(1, num_after)} @@\n".encode()])
    yield (_marked(b"-", line) for line in raw_lines(before))
    yield (_marked(b"+", line) for line in raw_lines(after))


def _range(start: int, count: int) -> str:
    """Of no lines, the line before which they would be is named."""
    return f"{start}" if count == 1 else f"{start if count else start - 1},{count}"


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"

"""Files to runs of numbered lines: the first step of every command.

path ─▶ Source ─▶ Chunk(s)
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import BinaryIO

import orjson

from kto_data import compression, json_array, parquet
from kto_data.chunk import READ_BYTES, Chunk, SourceKind, reading
from kto_data.errors import InputError
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.storage import FileState

STDIN = "-"
DEFAULT_ROWS_PER_CHUNK = 1000

MAX_LINE_BYTES = json_array.MAX_RECORD_BYTES
"""Bytes up to which a line is read: a longer one is no record, and would fill the memory."""

_CHUNK_BYTES = 1 << 24  # where lines are long, a chunk has fewer of them

_ARRAYS = {
    SourceKind.JSON: SourceKind.JSONL,
    SourceKind.JSON_GZ: SourceKind.JSONL_GZ,
    SourceKind.JSON_ZST: SourceKind.JSONL_ZST,
}
"""The kinds of arrays, and what each is where it turns out to hold JSON lines."""
_COMPRESSED = frozenset(kind for kind in SourceKind if kind.endswith((".gz", ".zst")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input: a file, or standard input."""

    path: str  # as the user named it; "-" for standard input
    kind: SourceKind
    local: str  # the file to read: `path`, or a copy of what lies at a URL
    copied: FileState | None = None  # what that is a copy of

    def chunks(self, rows_per_chunk: int = DEFAULT_ROWS_PER_CHUNK) -> Iterator[Chunk]:
        """The records in runs of `rows_per_chunk`, the last of them shorter.

        Standard input can be read once, and its payloads together are its bytes. Raises `InputError` where the file
        cannot be read, and at the end where it had no records.
        """
        assert rows_per_chunk >= 1
        chunks = self._plain_chunks
        if self.kind is SourceKind.PARQUET:
            chunks = self._parquet_chunks
        elif self.kind in _ARRAYS:
            chunks = self._array_chunks
        elif self.kind in _COMPRESSED or self.kind is SourceKind.STDIN:
            chunks = self._streamed_chunks
        empty = True
        for chunk in chunks(rows_per_chunk):
            empty = False
            yield chunk
        if empty:
            raise no_rows(self.path)

    def as_it_is(self) -> Source:
        """The source, of the kind that its content is: a `.json` file may hold JSON lines, and its first line with text
        is an object by itself then. Raises `InputError` where it cannot be read."""
        if self.kind not in _ARRAYS:
            return self
        with _open_stream(self) as file, compression.telling_damage(self.path, lambda: 1):
            first = next((line for line in _lines_of(file) if line.removeprefix(BYTE_ORDER_MARK).strip()), b"")
        try:
            holds_lines = isinstance(orjson.loads(first.removeprefix(BYTE_ORDER_MARK)), dict)
        except orjson.JSONDecodeError:
            holds_lines = False
        return replace(self, kind=_ARRAYS[self.kind]) if holds_lines else self

    @property
    def is_read_by_chunks(self) -> bool:
        """Whether whoever works on a chunk reads this very file: not where it is a copy, or rows are handed over."""
        return self.copied is None and self.kind is not SourceKind.STDIN and self.kind not in _COMPRESSED

    def digest(self) -> tuple[str, int]:
        """SHA-256 (hex) and size in bytes of the file as it lies on disk. Not for standard input, which is gone."""
        assert self.kind is not SourceKind.STDIN
        with reading(self.path), open(self.local, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return sha256, file.tell()

    @property
    def num_bytes(self) -> int | None:
        """Size of the file as it lies on disk; None of standard input."""
        if self.kind is SourceKind.STDIN:
            return None
        with reading(self.path):
            return os.stat(self.local).st_size

    def _plain_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        # Lines are measured and forgotten here, and read again by whoever works on the chunk: that costs less than
        # handing them over.
        start, number = 0, 1
        with reading(self.path), open(self.local, "rb", buffering=READ_BYTES) as file:
            lines = _lines_of(file)
            while lengths := list(map(len, islice(lines, rows_per_chunk))):
                for num_rows, num_bytes in _runs(lengths):
                    chunk = Chunk(
                        path=self.path,
                        local=self.local,
                        copied=self.copied,
                        kind=self.kind,
                        num_rows=num_rows,
                        first_line=number,
                        byte_start=start,
                        byte_stop=start + num_bytes,
                    )
                    if num_bytes >= MAX_LINE_BYTES:
                        raise _not_records(self.path, number, json_array.TOO_LONG)
                    yield chunk
                    start, number = start + num_bytes, number + num_rows

    def _streamed_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        start, number = 0, 1
        lines: list[bytes] = []
        with _open_stream(self) as file:
            while True:
                with compression.telling_damage(self.path, lambda: number + len(lines)):  # noqa: B023  (called at once)
                    num_bytes = 0
                    for raw in islice(_lines_of(file), rows_per_chunk):
                        lines.append(raw)
                        num_bytes += len(raw)
                        if num_bytes > _CHUNK_BYTES:
                            break
                if not lines:
                    return
                if len(lines[-1]) >= MAX_LINE_BYTES:
                    raise _not_records(self.path, number + len(lines) - 1, json_array.TOO_LONG)
                payload, num_rows = b"".join(lines), len(lines)
                lines.clear()  # which may be huge
                yield Chunk(
                    path=self.path,
                    local=self.local,
                    kind=self.kind,
                    num_rows=num_rows,
                    first_line=number,
                    byte_start=start,
                    byte_stop=start + len(payload),
                    payload=payload,
                )
                start, number = start + len(payload), number + num_rows

    def _array_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        line_reached = 1
        with _open_stream(self) as file, compression.telling_damage(self.path, lambda: line_reached):
            records = json_array.spans(file)
            while batch := self._batch(records, rows_per_chunk):
                spans = tuple(span for span, _ in batch)
                line_reached = spans[-1].line
                payload = b"".join(raw for _, raw in batch) if self.kind in _COMPRESSED else None
                batch.clear()  # whose records may be huge
                yield Chunk(
                    path=self.path,
                    local=self.local,
                    copied=self.copied,
                    kind=self.kind,
                    num_rows=len(spans),
                    first_line=spans[0].line,
                    byte_start=spans[0].start,
                    byte_stop=spans[-1].stop,
                    payload=payload,
                    spans=spans,
                )

    def _batch(
        self, records: Iterator[tuple[json_array.Span, bytes]], rows_per_chunk: int
    ) -> list[tuple[json_array.Span, bytes]]:
        batch: list[tuple[json_array.Span, bytes]] = []
        try:
            for record in islice(records, rows_per_chunk):
                batch.append(record)
                if record[0].stop - batch[0][0].start > _CHUNK_BYTES:
                    break
        except json_array.UnreadableArrayError as error:
            raise _not_records(self.path, error.line, str(error)) from None
        return batch

    def _parquet_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        total = parquet.count_rows(self.local)
        for start in range(0, total, rows_per_chunk):
            yield Chunk(
                path=self.path,
                local=self.local,
                copied=self.copied,
                kind=self.kind,
                num_rows=min(rows_per_chunk, total - start),
                first_line=start + 1,
            )


def no_rows(path: str) -> InputError:
    """The error for an input without any record."""
    name = "standard input" if path == STDIN else path
    return InputError(f"{name} has no rows", hint="check that whatever wrote it was finished")


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; one that is too long comes in pieces."""
    return iter(partial(file.readline, MAX_LINE_BYTES), b"")


def _runs(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """(number of lines, their bytes) of each chunk that lines of these lengths make."""
    if sum(lengths) <= _CHUNK_BYTES:
        yield len(lengths), sum(lengths)
        return
    num_rows = num_bytes = 0
    for length in lengths:
        if num_rows and num_bytes + length > _CHUNK_BYTES:
            yield num_rows, num_bytes
            num_rows = num_bytes = 0
        num_rows, num_bytes = num_rows + 1, num_bytes + length
    yield num_rows, num_bytes


@contextmanager
def _open_stream(source: Source) -> Iterator[BinaryIO]:
    if source.kind is SourceKind.STDIN:
        yield sys.stdin.buffer
        return
    with reading(source.path), open(source.local, "rb") as raw, compression.plain(source.kind, raw) as file:
        yield file


def _not_records(path: str, line: int, reason: str) -> InputError:
    return InputError(f"{path}:{line}: {reason}", hint="check that it is a data file")

"""Files to runs of numbered lines: the first step of every command.

path ─▶ Source ─▶ Chunk(s)
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import orjson

from kto_data import compression, json_array, parquet, storage
from kto_data.chunk import READ_BYTES, Chunk, SourceKind, reading, unreadable
from kto_data.errors import InputError
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.local_copy import LocalCopy, local_copy
from kto_data.missing import missing_file
from kto_data.safe_text import encodable
from kto_data.storage import FileState

STDIN = "-"
DEFAULT_ROWS_PER_CHUNK = 1000

MAX_LINE_BYTES = json_array.MAX_RECORD_BYTES
"""Bytes up to which a line is read: a longer one is no record, and would fill the memory."""

_CHUNK_BYTES = 1 << 24  # where lines are long, a chunk has fewer of them

SUFFIXES = {f".{kind}": kind for kind in SourceKind if kind is not SourceKind.STDIN}
"""What file names end with, and the kind each speaks of."""
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


def open_source(path: str) -> Source:
    """The source at `path`: a file of a known suffix, its URL, or `-` for JSON lines on standard input.

    A `.json` file that holds JSON lines is read as such; what lies at a URL is fetched now. Raises `InputError` where
    the file is missing, no file, of an unknown suffix, unreadable or empty.
    """
    if path == STDIN:
        return Source(path=path, kind=SourceKind.STDIN, local="")
    if encodable(path) != path:
        raise InputError(f"the name of {path} is not UTF-8", hint="rename it: no report could hold the name")
    kind = kind_of(path)
    local, copied = _fetched(path) if storage.is_url(path) and kind else (path, None)
    try:
        status = os.stat(local)
    except OSError as error:
        raise missing_file(path) if isinstance(error, FileNotFoundError) else unreadable(path, error) from None
    except ValueError:  # a NUL character
        raise missing_file(path) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory", hint="name its data files one by one")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="pipe it in and read standard input: `-`")
    if kind is None:
        raise InputError(
            f"{path}: unknown kind of file '{Path(path).suffix}'",
            hint=f"known are {', '.join(SUFFIXES)}; for JSON lines of another name: `… - < {path}`",
        )
    source = Source(path=path, kind=kind, local=local, copied=copied)
    with reading(path), open(local, "rb") as file:
        if not file.read(1):
            raise no_rows(path)
    if kind in _ARRAYS and _holds_lines(source):
        return replace(source, kind=_ARRAYS[kind])
    return source


def kind_of(path: str) -> SourceKind | None:
    """The kind of file that the suffix of a path or URL speaks of; None of an unknown one."""
    name = urlsplit(path).path if storage.is_url(path) else path
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def _fetched(url: str) -> LocalCopy:
    try:
        return local_copy(url)
    except FileNotFoundError:
        raise missing_file(url) from None
    except OSError as error:
        raise unreadable(url, error) from None


def no_rows(path: str) -> InputError:
    """The error for an input without any record."""
    name = "standard input" if path == STDIN else path
    return InputError(f"{name} has no rows", hint="check that whatever wrote it was finished")


def _holds_lines(source: Source) -> bool:
    """Whether a `.json` file holds JSON lines: its first line with text is an object by itself."""
    with _open_stream(source) as file, compression.telling_damage(source.path, lambda: 1):
        first = next((line for line in _lines_of(file) if line.removeprefix(BYTE_ORDER_MARK).strip()), b"")
    try:
        return isinstance(orjson.loads(first.removeprefix(BYTE_ORDER_MARK)), dict)
    except orjson.JSONDecodeError:
        return False


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

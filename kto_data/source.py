"""Files to numbered lines: the first step of every command.

    path ─▶ Source ─▶ Chunk(s) ─▶ Line(s)

A chunk is a run of whole records of one file, small enough to be one unit of work and cheap to hand to another
process. Lines keep their physical number and byte offset to the end.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import orjson

from kto_data import compression, json_array, parquet, storage
from kto_data.errors import InputError
from kto_data.json_array import BYTE_ORDER_MARK

STDIN = "-"
DEFAULT_ROWS_PER_CHUNK = 1000

MAX_LINE_BYTES = json_array.MAX_RECORD_BYTES
"""Bytes up to which a line is read: a longer one is no record, and would fill the memory."""

_READ_BYTES = 1 << 17
_CHUNK_BYTES = 1 << 24  # where lines are long, a chunk has fewer of them


class SourceKind(StrEnum):
    """How the records lie in a file."""

    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    JSONL_ZST = "jsonl.zst"
    JSON = "json"  # one array of records, or a single record
    JSON_GZ = "json.gz"
    JSON_ZST = "json.zst"
    PARQUET = "parquet"
    STDIN = "stdin"  # JSON lines


SUFFIXES = {f".{kind}": kind for kind in SourceKind if kind is not SourceKind.STDIN}
"""What file names end with, and the kind each speaks of."""
_ARRAYS = {
    SourceKind.JSON: SourceKind.JSONL,
    SourceKind.JSON_GZ: SourceKind.JSONL_GZ,
    SourceKind.JSON_ZST: SourceKind.JSONL_ZST,
}
"""The kinds of arrays, and what each is where it turns out to hold JSON lines."""
_COMPRESSED = frozenset(kind for kind in SourceKind if kind.endswith((".gz", ".zst")))


class Line(NamedTuple):
    """One record's bytes, as they stand in the file, without the line ending."""

    path: str  # as the user named it
    number: int  # physical line on which the record starts, 1-based; in parquet the row, 1-based
    byte_offset: int  # of the first byte in the (decompressed) file; in parquet 0
    raw: bytes
    problem: str = ""  # why there is no record here, where the file's own structure is broken; `raw` is then no JSON


class Endings(NamedTuple):
    """How some lines of a file end."""

    num_lines: int
    num_crlf: int  # lines that end in CR LF
    first_crlf: int  # the first of them; 0: none
    unended: int  # the line without any ending, which only the last can be; 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of whole records of one source. `lines` works in any process that sees the file."""

    path: str  # as the user named it
    local: str  # the file to read
    kind: SourceKind
    num_rows: int
    first_line: int  # number of the first record's line; in parquet its row
    byte_start: int = 0  # in the (decompressed) file; in parquet 0
    byte_stop: int = 0
    payload: bytes | None = None  # the records themselves, where the file cannot be read from the middle
    spans: tuple[json_array.Span, ...] = ()  # of an array: where its records lie
    chosen: frozenset[int] | None = None  # places of the rows to be looked at, 0-based; None is all

    def lines(self) -> Iterator[Line]:
        """The chunk's records, one by one. Raises `InputError` where the file cannot be read, or has changed."""
        chosen = self.chosen
        if chosen is not None:
            return (line for index, line in enumerate(self._all_lines()) if index in chosen)
        return self._all_lines()

    def endings(self) -> Endings | None:
        """How the chunk's lines end, which takes reading it again; None where records do not lie line by line."""
        if self.kind is SourceKind.PARQUET or self.spans:
            return None
        num_crlf = first_crlf = unended = 0
        with _reading(self.path), self._open() as file:
            for number, raw in enumerate(islice(file, self.num_rows), start=self.first_line):
                if raw[-2:] == b"\r\n":
                    num_crlf += 1
                    first_crlf = first_crlf or number
                elif raw[-1:] != b"\n":
                    unended = number
        return Endings(self.num_rows, num_crlf, first_crlf, unended)

    def raw_lines(self) -> Iterator[bytes]:
        """The chunk's lines with their ends, where records lie line by line."""
        assert self.kind is not SourceKind.PARQUET
        assert not self.spans
        with _reading(self.path), self._open() as file:
            yield from islice(file, self.num_rows)

    def _all_lines(self) -> Iterator[Line]:
        if self.kind is SourceKind.PARQUET:
            return self._parquet_lines()
        return self._spanned_lines() if self.spans else self._plain_lines()

    def _plain_lines(self) -> Iterator[Line]:
        path, number, offset = self.path, self.first_line, self.byte_start
        with _reading(path), self._open() as file:
            for raw in islice(file, self.num_rows):
                ending = -2 if raw[-2:] == b"\r\n" else -1 if raw[-1:] == b"\n" else None
                yield tuple.__new__(Line, (path, number, offset, raw[:ending], ""))  # twice as fast as Line(…)
                number += 1
                offset += len(raw)
        if offset != self.byte_stop:
            raise _changed(path)

    def _spanned_lines(self) -> Iterator[Line]:
        with _reading(self.path), self._open() as file:
            data = file.read(self.byte_stop - self.byte_start)
        if self.payload is None and len(data) != self.byte_stop - self.byte_start:
            raise _changed(self.path)
        start = 0
        for span in self.spans:
            if self.payload is None:
                start = span.start - self.byte_start
            stop = start + span.stop - span.start
            # A byte order mark before the array is put before its first record, so that it is seen and reported.
            raw = BYTE_ORDER_MARK + data[start:stop] if span.after_mark else data[start:stop]
            yield Line(self.path, span.line, span.start, raw, span.problem)
            start = stop

    def _parquet_lines(self) -> Iterator[Line]:
        raws = parquet.read_rows(self.local, self.first_line - 1, self.num_rows)
        if len(raws) != self.num_rows:
            raise _changed(self.path)
        for number, raw in enumerate(raws, start=self.first_line):
            yield Line(self.path, number, 0, raw)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.payload is not None:
            yield BytesIO(self.payload)
            return
        with open(self.local, "rb", buffering=_READ_BYTES) as file:
            file.seek(self.byte_start)
            yield file


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input: a file, or standard input."""

    path: str  # as the user named it; "-" for standard input
    kind: SourceKind
    local: str  # the file to read: `path`, or a copy of what lies at a URL

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

    def digest(self) -> tuple[str, int]:
        """SHA-256 (hex) and size in bytes of the file as it lies on disk. Not for standard input, which is gone."""
        assert self.kind is not SourceKind.STDIN
        with _reading(self.path), open(self.local, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return sha256, file.tell()

    @property
    def num_bytes(self) -> int | None:
        """Size of the file as it lies on disk; None of standard input."""
        if self.kind is SourceKind.STDIN:
            return None
        with _reading(self.path):
            return os.stat(self.local).st_size

    def _plain_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        # Lines are measured and forgotten here, and read again by whoever works on the chunk: that costs less than
        # handing them over.
        start, number = 0, 1
        with _reading(self.path), open(self.local, "rb", buffering=_READ_BYTES) as file:
            lines = _lines_of(file)
            while lengths := list(map(len, islice(lines, rows_per_chunk))):
                for num_rows, num_bytes in _runs(lengths):
                    chunk = Chunk(
                        path=self.path,
                        local=self.local,
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
                with _decompressing(self.path, lambda: number + len(lines)):  # noqa: B023  (called at once)
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
                payload = b"".join(lines)
                yield Chunk(
                    path=self.path,
                    local=self.local,
                    kind=self.kind,
                    num_rows=len(lines),
                    first_line=number,
                    byte_start=start,
                    byte_stop=start + len(payload),
                    payload=payload,
                )
                start, number = start + len(payload), number + len(lines)
                lines.clear()

    def _array_chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        line_reached = 1
        with _open_stream(self) as file, _decompressing(self.path, lambda: line_reached):
            records = json_array.spans(file)
            while batch := self._batch(records, rows_per_chunk):
                spans = tuple(span for span, _ in batch)
                line_reached = spans[-1].line
                yield Chunk(
                    path=self.path,
                    local=self.local,
                    kind=self.kind,
                    num_rows=len(spans),
                    first_line=spans[0].line,
                    byte_start=spans[0].start,
                    byte_stop=spans[-1].stop,
                    payload=b"".join(raw for _, raw in batch) if self.kind in _COMPRESSED else None,
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
    kind = kind_of(path)
    local = _fetched(path) if storage.is_url(path) and kind else path
    try:
        status = os.stat(local)
    except OSError as error:
        raise _not_found(path) if isinstance(error, FileNotFoundError) else _unreadable(path, error) from None
    except ValueError:  # a NUL character
        raise _not_found(path) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory", hint="name its data files one by one")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="pipe it in and read standard input: `-`")
    if kind is None:
        raise InputError(
            f"{path}: unknown kind of file '{Path(path).suffix}'",
            hint=f"known are {', '.join(SUFFIXES)}; for JSON lines of another name: `… - < {path}`",
        )
    source = Source(path=path, kind=kind, local=local)
    with _reading(path), open(local, "rb") as file:
        if not file.read(1):
            raise no_rows(path)
    if kind in _ARRAYS and _holds_lines(source):
        return Source(path=path, kind=_ARRAYS[kind], local=local)
    return source


def kind_of(path: str) -> SourceKind | None:
    """The kind of file that the suffix of a path or URL speaks of; None of an unknown one."""
    name = urlsplit(path).path if storage.is_url(path) else path
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def _fetched(url: str) -> str:
    try:
        return storage.local_copy(url)
    except FileNotFoundError:
        raise _not_found(url) from None
    except OSError as error:
        raise _unreadable(url, error) from None


def no_rows(path: str) -> InputError:
    """The error for an input without any record."""
    name = "standard input" if path == STDIN else path
    return InputError(f"{name} has no rows", hint="check that whatever wrote it was finished")


def _holds_lines(source: Source) -> bool:
    """Whether a `.json` file holds JSON lines: its first line with text is an object by itself."""
    with _open_stream(source) as file, _decompressing(source.path, lambda: 1):
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
    with _reading(source.path), open(source.local, "rb") as raw:
        if source.kind in (SourceKind.JSONL_GZ, SourceKind.JSON_GZ):
            with compression.open_gzip(raw) as file:
                yield file
        elif source.kind in (SourceKind.JSONL_ZST, SourceKind.JSON_ZST):
            with compression.open_zstd(raw) as file:
                yield file
        else:
            yield raw


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error) from None


@contextmanager
def _decompressing(path: str, line_reached: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except compression.DAMAGE as error:
        test = "zstd --test" if path.lower().endswith(".zst") else "gzip --test"
        raise InputError(
            f"{path} is damaged: decompression fails in or after line {line_reached()}: {error}",
            hint=f"check that it was copied whole (`{test}`)",
        ) from None


def _not_found(path: str) -> InputError:
    near = []
    with suppress(OSError, ValueError):
        near = difflib.get_close_matches(Path(path).name, os.listdir(Path(path).parent), n=1)
    return InputError(
        f"{path} does not exist", hint=f"did you mean {Path(path).with_name(near[0])}?" if near else "check the path"
    )


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror or error}", hint="check its permissions")


def _not_records(path: str, line: int, reason: str) -> InputError:
    return InputError(f"{path}:{line}: {reason}", hint="check that it is a data file")


def _changed(path: str) -> InputError:
    return InputError(f"{path} changed while it was read", hint="run again when nothing writes to it")

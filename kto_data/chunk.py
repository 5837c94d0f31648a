"""A run of lines of one file: the unit of work of every command.

    Chunk ─▶ Block(s) ─▶ Line(s)

A chunk is small enough to be handed to another process; a block small enough to stay in a processor's cache. Lines
keep their physical number and byte offset to the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from itertools import accumulate, islice
from typing import BinaryIO, NamedTuple

from kto_data import json_array, parquet, storage
from kto_data.errors import InputError
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.local_copy import unnamed_copy
from kto_data.marks import line_ends
from kto_data.safe_text import encodable
from kto_data.storage import FileState

READ_BYTES = 1 << 17
"""Bytes read ahead of a loop over lines."""

# So much fits a processor's cache with all that is made of it, and is got from the heap: with more the operating system
# is asked for fresh memory each time, which takes as long as the work itself.
_BLOCK_BYTES = 96 << 10

_HUGE_BYTES = 1 << 25  # twice what a chunk has: such a one has a huge record


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

    @property
    def tells_place(self) -> bool:
        """Whether chunks say where they lie among the bytes on disk."""
        return self in (SourceKind.JSONL, SourceKind.JSON)


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
class Block:
    """Some lines of a chunk: `data`, or `given` where they do not lie one after another in the file."""

    path: str  # as the user named it
    first_line: int = 0  # number of the first line of `data`
    byte_start: int = 0  # of `data` in the (decompressed) file
    data: bytes = b""  # whole lines with their ends
    ends: tuple[int, ...] = ()  # where in `data` its line ends are
    given: tuple[Line, ...] = ()

    def __len__(self) -> int:
        return len(self.given) or len(self.ends) + (not self.data.endswith(b"\n"))

    def line(self, index: int) -> Line:
        """One of the lines."""
        if self.given:
            return self.given[index]
        start = self.ends[index - 1] + 1 if index else 0
        stop = self.ends[index] + 1 if index < len(self.ends) else len(self.data)
        return _as_line(self.path, self.first_line + index, self.byte_start + start, self.data[start:stop])

    @property
    def joined(self) -> tuple[bytes, Sequence[int]]:
        """The lines one after another, and where each ends: before its line end, if it has one."""
        if self.given:
            data = b"\n".join([line.raw for line in self.given])
            return data, list(accumulate([len(line.raw) + 1 for line in self.given], initial=-1))[1:]
        return self.data, self.ends if self.data.endswith(b"\n") else (*self.ends, len(self.data))

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the lines."""
        if self.given:
            return [line.number for line in self.given]
        return range(self.first_line, self.first_line + len(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of whole records of one source. `lines` works in any process that sees the file, or the URL."""

    path: str  # as the user named it
    local: str  # the file to read: `path`, or a copy of what lies at a URL, which other machines do not see
    kind: SourceKind
    num_rows: int
    first_line: int  # number of the first record's line; in parquet its row
    byte_start: int = 0  # in the (decompressed) file; in parquet 0
    byte_stop: int = 0
    payload: bytes | None = None  # the records themselves, where the file cannot be read from the middle
    spans: tuple[json_array.Span, ...] = ()  # of an array: where its records lie
    chosen: frozenset[int] | None = None  # places of the rows to be looked at, 0-based; None is all
    copied: FileState | None = None  # what `local` is a copy of

    @property
    def is_huge(self) -> bool:
        """Whether it takes so much memory that no two should be worked on at the same time."""
        return self.byte_stop - self.byte_start > _HUGE_BYTES

    @property
    def place(self) -> str:
        """Where it is, in words fit for any program: "data.jsonl, from line 2,001 on"."""
        return encodable(f"{os.path.basename(self.path)}, from line {self.first_line:,} on")

    def lines(self) -> Iterator[Line]:
        """The chunk's records, one by one. Raises `InputError` where the file cannot be read, or has changed."""
        chosen = self.chosen
        if chosen is not None:
            return (line for index, line in enumerate(self._all_lines()) if index in chosen)
        return self._all_lines()

    def blocks(self) -> Iterator[Block]:
        """The chunk's records, many at once. Raises `InputError` as `lines` does."""
        if self.kind is not SourceKind.PARQUET and not self.spans and self.chosen is None:
            yield from self._plain_blocks()
            return
        lines: list[Line] = []
        num_bytes = 0
        for line in self.lines():
            lines.append(line)
            num_bytes += len(line.raw)
            if num_bytes > _BLOCK_BYTES:
                yield Block(path=self.path, given=tuple(lines))
                lines.clear()
                num_bytes = 0
        if lines:
            yield Block(path=self.path, given=tuple(lines))

    def endings(self) -> Endings | None:
        """How the chunk's lines end, which takes reading it again; None where records do not lie line by line."""
        if self.kind is SourceKind.PARQUET or self.spans:
            return None
        num_crlf = first_crlf = unended = 0
        with reading(self.path), self._open() as file:
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
        with reading(self.path), self._open() as file:
            yield from islice(file, self.num_rows)

    def _all_lines(self) -> Iterator[Line]:
        if self.kind is SourceKind.PARQUET:
            return self._parquet_lines()
        return self._spanned_lines() if self.spans else self._plain_lines()

    def _plain_lines(self) -> Iterator[Line]:
        file_path, number, offset = self.path, self.first_line, self.byte_start
        with reading(file_path), self._open() as file:
            for raw in islice(file, self.num_rows):
                yield _as_line(file_path, number, offset, raw)
                number += 1
                offset += len(raw)
        if offset != self.byte_stop:
            raise changed(file_path)

    def _plain_blocks(self) -> Iterator[Block]:
        number, offset, rest = self.first_line, self.byte_start, b""
        with reading(self.path), self._open(buffering=0) as file:
            while offset < self.byte_stop:
                num_left = self.byte_stop - offset - len(rest)
                read = file.read(min(max(_BLOCK_BYTES, len(rest)), num_left))  # more and more where a line is long
                if not read and num_left:
                    raise changed(self.path)
                # Up to the last line end; up to the end where that is all.
                end = len(read) if len(read) == num_left else read.rfind(b"\n") + 1
                data, rest = b"".join((rest, memoryview(read)[:end])), read[end:] if end else rest + read
                if end:
                    ends = tuple(line_ends(data))
                    yield Block(path=self.path, first_line=number, byte_start=offset, data=data, ends=ends)
                    number += len(ends)
                    offset += len(data)

    def _spanned_lines(self) -> Iterator[Line]:
        with reading(self.path), self._open() as file:
            data = file.read(self.byte_stop - self.byte_start)
        if self.payload is None and len(data) != self.byte_stop - self.byte_start:
            raise changed(self.path)
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
        raws = parquet.read_rows(self._file_here(), self.first_line - 1, self.num_rows)
        if len(raws) != self.num_rows:
            raise changed(self.path)
        for number, raw in enumerate(raws, start=self.first_line):
            yield Line(self.path, number, 0, raw)

    @contextmanager
    def _open(self, buffering: int = READ_BYTES) -> Iterator[BinaryIO]:
        if self.payload is not None:
            yield BytesIO(self.payload)
            return
        if self._is_elsewhere:
            assert self.copied is not None
            yield BytesIO(storage.read_range(self.path, self.byte_start, self.byte_stop, self.copied))
            return
        with open(self.local, "rb", buffering=buffering) as file:
            file.seek(self.byte_start)
            yield file

    @property
    def _is_elsewhere(self) -> bool:
        """Whether the copy to read was made on another machine."""
        return self.copied is not None and not os.path.exists(self.local)

    def _file_here(self) -> str:
        """The whole file, for a kind that is not read by ranges."""
        if not self._is_elsewhere:
            return self.local
        with reading(self.path):
            path, state = unnamed_copy(self.path)
        if state != self.copied:
            raise changed(self.path)
        return path


def _as_line(path: str, number: int, offset: int, raw: bytes) -> Line:
    ending = -2 if raw[-2:] == b"\r\n" else -1 if raw[-1:] == b"\n" else None
    return tuple.__new__(Line, (path, number, offset, raw[:ending], ""))  # twice as fast as Line(…)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what the system says against reading `path` into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str, error: OSError) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(f"{path} cannot be read: {error.strerror or error}", hint="check its permissions")


def changed(path: str) -> InputError:
    """The error for a file that is not any more what it was when it was opened."""
    return InputError(f"{path} changed while it was read", hint="run again when nothing writes to it")

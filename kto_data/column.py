"""Numbers that grow with the rows: in memory while they are few, in a file without a name from then on.

What lies in the file is mapped: it is read like memory, and the system takes its pages back when it needs them.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from pathlib import Path
from typing import IO, Literal

from kto_data.writing import writing_to

MOST_BYTES = 1 << 22
"""Bytes of a column up to which it stays in memory: some half a million numbers of 64 bits."""

Kind = Literal["B", "I", "Q"]
"""A kind of numbers by its typecode in `array`; "B" also for bytes that somebody else makes sense of."""

_BLOCK_BYTES = 1 << 20  # that are gathered before they are written


class Column:
    """Numbers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._rest = bytearray()  # what does not lie in the file
        self._file: IO[bytes] | None = None
        self._view: memoryview[int] | None = None

    def extend(self, numbers: array[int] | memoryview[int] | bytes) -> None:
        """Add the next numbers, as they lie in memory. Raises `InputError` where there is no room for them."""
        self._view = None
        self._rest += memoryview(numbers)
        if len(self._rest) > (MOST_BYTES if self._file is None else _BLOCK_BYTES):
            self._write()

    @property
    def view(self) -> memoryview[int]:
        """All of them. While it is used nothing can be added."""
        if self._view is None:
            empty = memoryview(array(self._kind))
            self._view = memoryview(self._bytes()).cast("B").cast(self._kind) if self else empty
        return self._view

    def __bool__(self) -> bool:
        return bool(self._rest) or self._file is not None

    def _bytes(self) -> bytearray | mmap.mmap:
        if self._file is None:
            return self._rest
        self._write()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def _write(self) -> None:
        with writing_to(Path(tempfile.gettempdir())):
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - held as long as the column
            self._file.write(self._rest)
            self._file.flush()
        self._rest.clear()


def room(num_bytes: int) -> memoryview[int]:
    """So many bytes to be written to, in memory where they are few, in a file without a name where they are not.

    Raises `InputError` where there is no room for them.
    """
    if num_bytes <= MOST_BYTES:
        return memoryview(bytearray(num_bytes))
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        for start in range(0, num_bytes, _BLOCK_BYTES):  # a disk that fills up later on would kill the process
            file.write(bytes(min(_BLOCK_BYTES, num_bytes - start)))
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), num_bytes))

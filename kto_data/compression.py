"""Compressed files as streams of their plain bytes, read and written. The only home of zstandard."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from kto_data.errors import InputError

_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a damaged file raises: never an end that looks like the end of the data."""

_BUFFER_BYTES = 1 << 17
_STEP_BYTES = 1 << 11  # zstd may make 32,768 bytes of one: more at a time, and a bomb would fill the memory


@contextmanager
def plain(name: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """The plain bytes of `file`, which is packed as the suffix of `name` says: gzip, all frames of zstd, or not."""
    if name.lower().endswith(".gz"):
        with gzip.open(file) as unpacked:
            yield cast("BinaryIO", unpacked)
    elif name.lower().endswith(".zst"):
        with io.BufferedReader(_ZstdFile(file), _BUFFER_BYTES) as unpacked:
            yield cast("BinaryIO", unpacked)
    else:
        yield file


@contextmanager
def telling_damage(path: str, line_reached: Callable[[], int]) -> Iterator[None]:
    """Makes of what a damaged file raises while it is read an `InputError`, with the line that was reached."""
    try:
        yield
    except _DAMAGE as error:
        test = "zstd --test" if path.lower().endswith(".zst") else "gzip --test"
        raise InputError(
            f"{path} is damaged: decompression fails in or after line {line_reached()}: {error}",
            hint=f"check that it was copied whole (`{test}`)",
        ) from None


@contextmanager
def compressing(name: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """A file to write to, from which `file` gets what the suffix of `name` asks for: gzip, zstd, or the plain bytes.

    The result depends on the plain bytes alone, not on the time.
    """
    if name.lower().endswith(".gz"):
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packer:
            yield cast("BinaryIO", packer)
    elif name.lower().endswith(".zst"):
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packer:
            buffer = io.BufferedWriter(cast("io.RawIOBase", packer), _BUFFER_BYTES)  # has `writelines`, too
            yield buffer
            buffer.flush()
            buffer.detach()
    else:
        yield file


class _ZstdFile(io.RawIOBase):
    """As zstandard's own reader, which takes a file that was cut off for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame = self._new_frame()
        self._is_within_frame = False
        self._left = b""  # of the compressed bytes
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._plain:
            step = self._left or self._file.read(_STEP_BYTES)
            self._left = b""
            if not step:
                if self._is_within_frame:
                    raise EOFError("the file ends before its last frame does")
                return 0
            try:
                self._plain = memoryview(self._frame.decompress(step))
            except self._error as error:
                raise EOFError(str(error)) from None
            self._is_within_frame = not self._frame.eof
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, self._new_frame()
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count

"""Images below a root that is a URL: the promises of `image.probe`, kept by reading a few blocks of each."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import IO, cast

from kto_data import storage
from kto_data.errors import first_line
from kto_data.image import (
    BOMB_PIXELS,
    DECODE_ERRORS,
    END_MARKERS,
    END_WINDOW,
    ImageCheck,
    ImageProbe,
    NotAnImageError,
    ProbeStatus,
    load_upright,
    read_header,
    shows_one_color,
)


def read_image(given: str, root: str) -> bytes:
    """The bytes of the image `given` below the URL `root`.

    Raises `FileNotFoundError` where there is none, and another `OSError` where it must not be fetched or cannot be.
    """
    url = None if "://" in given else storage.below(root, given)
    if url is None:
        raise OSError(ProbeStatus.ESCAPES_ROOT.value)
    with storage.open_file(url, whole=True) as (file, _):
        return file.read()


def probe(given: str, root: str, check: ImageCheck) -> ImageProbe:
    """Look at the image `given` below the URL `root`, as closely as `check` says.

    Data is untrusted: a URL in it is not fetched, nor anything outside the root, and no bomb is decoded.
    """
    if "://" in given or given.startswith("data:"):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    url = storage.below(root, given)
    if url is None:
        tried = f"{root.rstrip('/')}/{given}"
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=tried)
    blank = ImageProbe(given=given, tried=url, status=ProbeStatus.OK)
    if check is ImageCheck.OFF:
        return blank
    try:
        with storage.open_file(url) as (remote, num_bytes):
            if check is ImageCheck.STAT:
                return blank
            file = _Watched(remote)
            found = _look(cast("IO[bytes]", file), num_bytes, check, blank)
            if file.fault is not None:
                raise file.fault
            return found
    except FileNotFoundError:
        return replace(blank, status=ProbeStatus.NOT_FOUND)
    except IsADirectoryError:
        return replace(blank, status=ProbeStatus.NOT_REGULAR, detail="a directory")
    except OSError as error:
        return replace(blank, status=ProbeStatus.IO_ERROR, detail=first_line(error))


class _Watched(io.BufferedIOBase):
    """A file of a server that keeps the first error of reading it: who reads an image takes that for one of the image,
    or for no metadata, and the image may be sound."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault: Exception | None = None

    def read(self, size: int | None = -1) -> bytes:
        try:
            return self._file.read(-1 if size is None else size)
        except Exception as error:  # each implementation has its own; none is kept from who reads
            self.fault = self.fault or error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _look(file: IO[bytes], num_bytes: int, check: ImageCheck, blank: ImageProbe) -> ImageProbe:
    if num_bytes == 0:
        return replace(blank, status=ProbeStatus.UNREADABLE, detail="the file is empty")
    try:
        header = read_header(file, num_bytes)
    except NotAnImageError:
        return replace(blank, status=ProbeStatus.UNREADABLE, detail="not an image of a known type")
    except DECODE_ERRORS as error:
        return replace(blank, status=ProbeStatus.UNREADABLE, detail=first_line(error))
    marker = END_MARKERS.get(header.format)
    if marker is not None:
        file.seek(max(0, num_bytes - END_WINDOW))
        if marker not in file.read():
            detail = f"the {header.format} end marker is missing"
            return replace(blank, status=ProbeStatus.TRUNCATED, header=header, detail=detail)
    if check is not ImageCheck.DECODE or header.pixels > BOMB_PIXELS:
        return replace(blank, header=header)
    try:
        file.seek(0, os.SEEK_SET)
        return replace(blank, header=header, is_blank=shows_one_color(load_upright(file)))
    except DECODE_ERRORS as error:
        return replace(blank, status=ProbeStatus.TRUNCATED, header=header, detail=first_line(error))

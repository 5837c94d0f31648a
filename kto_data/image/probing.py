"""What lies where a record says an image is: told without opening what must not be opened."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from kto_data.errors import first_line
from kto_data.image.header import (
    BOMB_PIXELS,
    DECODE_ERRORS,
    ImageHeader,
    NotAnImageError,
    read_header,
    upright_header,
)
from kto_data.image.pixels import OPEN_FLAGS, load_upright, shows_one_color
from kto_data.image_header import HEAD_BYTES, read_facts
from kto_data.storage import FileState

END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
END_WINDOW = 4096  # bytes at the end searched for the marker: cameras append data behind it
BLOCK_BYTES = 1 << 17  # read at a time of a file whose content is hashed; more would be fresh memory for each file
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class ImageCheck(StrEnum):
    """How closely images are looked at, each level including those before it."""

    OFF = "off"  # not at all
    STAT = "stat"  # the path, and what is there
    HEADER = "header"  # the first bytes, for size and format, and the end marker
    DECODE = "decode"  # every pixel


class ProbeStatus(StrEnum):
    """What became of looking at one image path."""

    OK = "ok"
    REMOTE = "remote"  # a URL: never fetched
    ESCAPES_ROOT = "escapes root"  # resolves to a place outside the image root: never opened
    NOT_FOUND = "not found"
    NOT_REGULAR = "not a regular file"  # a directory, a FIFO, a device: never opened
    UNREADABLE = "unreadable"  # empty, of an unknown type, or no image
    TRUNCATED = "truncated"  # a known type whose end is missing
    IO_ERROR = "io error"  # there, it seems, but the system would not show it


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProbe:
    """One image path of a record and what was found there. `header` is set where `status` is OK or TRUNCATED."""

    given: str  # the path as the record has it
    tried: str  # the path on disk
    status: ProbeStatus
    header: ImageHeader | None = None
    detail: str = ""
    is_blank: bool | None = None  # all of one colour; None where it was not decoded
    content: Content | None = None  # None where it was not asked for, or could not be told


class Content(NamedTuple):
    """What is in a file."""

    sha256: str
    state: FileState  # before it was read: what changes meanwhile is told by another state afterwards


def probe(given: str, root: str | Path, check: ImageCheck, *, with_content: bool = False) -> ImageProbe:
    """Look at the image `given` under `root`, as closely as `check` says; `with_content` tells what is in the file too,
    of one that is sound, for less than opening it twice.

    Data is untrusted: nothing outside the root is opened, nothing but a regular file is opened, nothing is fetched,
    and no bomb is decoded. `root` must be resolved.
    """
    if ":" in given and ("://" in given or given.startswith("data:")):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    root = os.fspath(root)
    tried = os.path.join(root, given)
    try:
        folder, _, name = tried.rpartition("/")
        real = f"{_real_folder(folder or '/')}/{name}"
        info = os.lstat(real)
        if name in ("", ".", "..") or stat.S_ISLNK(info.st_mode):
            real = os.path.realpath(tried)
            info = os.stat(real)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        return _not_found(given, tried, root, error)
    if not _is_inside(real, root):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=real)
    if not stat.S_ISREG(info.st_mode):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.NOT_REGULAR, detail=_kind(info.st_mode))
    if check is ImageCheck.STAT:
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.OK)
    return _probe_content(given, real, info, check, with_content=with_content)


def state_of(info: os.stat_result) -> FileState:
    """Which file it is of which the system says `info`."""
    # The time of a file's entry, unlike that of its content, can be set back by nobody.
    return FileState(info.st_size, f"{info.st_mtime_ns}-{info.st_ctime_ns}")


@lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    """`path` without symbolic links; images of a dataset lie in few folders, and resolving one takes a while."""
    return os.path.realpath(path)


def _not_found(given: str, tried: str, root: str, error: OSError | ValueError) -> ImageProbe:
    # Also of what is not there it is said first that it would be outside.
    with suppress(OSError, ValueError):
        real = os.path.realpath(tried)
        if not _is_inside(real, root):
            return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=real)
    is_absent = isinstance(error, ValueError) or error.errno in _ABSENT
    status = ProbeStatus.NOT_FOUND if is_absent else ProbeStatus.IO_ERROR
    return ImageProbe(given=given, tried=tried, status=status, detail=first_line(error))


def _is_inside(path: str, root: str) -> bool:
    return path.startswith(root if root.endswith(os.sep) else root + os.sep) or path == root


def _probe_content(given: str, path: str, info: os.stat_result, check: ImageCheck, *, with_content: bool) -> ImageProbe:
    content: Content | None = None

    def result(status: ProbeStatus, header: ImageHeader | None = None, detail: str = "") -> ImageProbe:
        return ImageProbe(given=given, tried=path, status=status, header=header, detail=detail, content=content)

    num_bytes = info.st_size
    if num_bytes == 0:
        return result(ProbeStatus.UNREADABLE, detail="the file is empty")
    try:
        descriptor = os.open(path, OPEN_FLAGS)
        try:
            head = os.read(descriptor, BLOCK_BYTES if with_content else HEAD_BYTES)
            try:
                header = _read_header(head, descriptor, num_bytes)
            except NotAnImageError:
                return result(ProbeStatus.UNREADABLE, detail="not an image of a known type")
            except DECODE_ERRORS as error:
                if isinstance(error, OSError) and error.errno is not None:  # not of Pillow's making
                    raise
                return result(ProbeStatus.UNREADABLE, detail=first_line(error))
            marker = END_MARKERS.get(header.format)
            if marker is not None:
                tail = head[-END_WINDOW:] if num_bytes <= len(head) else _tail(descriptor, num_bytes)
                if tail.rfind(marker) < 0:  # from behind, where it is as a rule
                    return result(ProbeStatus.TRUNCATED, header, f"the {header.format} end marker is missing")
            if with_content:
                content = Content(_sha256(head, descriptor), state_of(info))
        finally:
            os.close(descriptor)
    except OSError as error:
        return result(ProbeStatus.IO_ERROR, detail=first_line(error))
    if check is ImageCheck.DECODE and header.pixels <= BOMB_PIXELS:
        try:
            is_blank = shows_one_color(load_upright(path))
        except DECODE_ERRORS as error:
            return result(ProbeStatus.TRUNCATED, header, first_line(error))
        return replace(result(ProbeStatus.OK, header), is_blank=is_blank)
    return result(ProbeStatus.OK, header)


def _read_header(head: bytes, descriptor: int, num_bytes: int) -> ImageHeader:
    facts = read_facts(head, lambda offset, count: os.pread(descriptor, count, offset))
    if facts is None:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            return read_header(file, num_bytes)
    return upright_header(facts, num_frames=1, num_bytes=num_bytes)


def _tail(descriptor: int, num_bytes: int) -> bytes:
    return os.pread(descriptor, END_WINDOW, max(0, num_bytes - END_WINDOW))


def _sha256(head: bytes, descriptor: int) -> str:
    """The SHA-256 of a file that begins with `head`."""
    content, num_read = hashlib.sha256(head), len(head)
    while block := os.pread(descriptor, BLOCK_BYTES, num_read):
        content.update(block)
        num_read += len(block)
    return content.hexdigest()


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "not a file"

"""Data files that lie at a URL, copied to this machine: they are read more than once, from the middle, and in several
processes."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from typing import NamedTuple

from kto_data import storage
from kto_data.scratch import ScratchFolder
from kto_data.storage import FileState


class LocalCopy(NamedTuple):
    """A file on this machine that has the bytes of the one at a URL."""

    path: str
    state: FileState | None  # of what was copied; None where it is the very file


_named: dict[str, LocalCopy] = {}  # by URL
_unnamed: dict[str, tuple[str, FileState]] = {}  # by URL: path and what was copied


def local_copy(url: str) -> LocalCopy:
    """The file at `url` itself where it is on this machine, or a copy of it that goes when the process ends.

    Raises OSError where it cannot be read.
    """
    if url not in _named:  # nothing is fetched twice
        path = storage.local_path(url)
        _named[url] = LocalCopy(path, None) if path is not None else _copied(url)
    return _named[url]


def copy_made(url: str) -> str | None:
    """The path that `local_copy` has said of `url`; None where it was not asked."""
    return _named[url].path if url in _named else None


def unnamed_copy(url: str) -> tuple[str, FileState]:
    """A copy for this process alone, made once, and the state of what was copied. It has no name: nothing is left of it
    however the process ends. Raises OSError where it cannot be read."""
    if url not in _unnamed:
        with tempfile.TemporaryFile() as copy:
            state = storage.copy_to(copy, url)
            copy.flush()
            _unnamed[url] = f"/dev/fd/{os.dup(copy.fileno())}", state  # open as long as the process is there
    return _unnamed[url]


def _copied(url: str) -> LocalCopy:
    with tempfile.NamedTemporaryFile(dir=_copies().name, delete=False) as copy:
        return LocalCopy(copy.name, storage.copy_to(copy, url))


@cache
def _copies() -> ScratchFolder:
    return ScratchFolder()

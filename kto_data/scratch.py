"""Folders for temporary files that are gone sooner or later, however the process ends that made them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from glob import escape, iglob
from typing import IO

_PREFIX = "ktodata-"
_LOCK = ".in-use"


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder, below `root` or where the system has such. Those beside it are removed first that a killed
    process has left, however large what it had begun.

    Which ones are in use their makers' locks tell, which go with a process. Raises OSError where none can be made.
    """

    def __init__(self, kind: str = "", root: str | None = None) -> None:
        root = root or tempfile.gettempdir()
        _remove_left(root)
        super().__init__(prefix=f"{_PREFIX}{kind}", dir=root, ignore_cleanup_errors=True)
        self._lock = _locked(self.name)

    def cleanup(self) -> None:
        """Remove it, and all in it."""
        super().cleanup()
        self._lock.close()


def _locked(folder: str) -> IO[str]:
    lock = open(os.path.join(folder, f"{_LOCK}.new"), "w")  # noqa: SIM115 - as long as the folder is in use
    with suppress(OSError):  # a file system without locks: then the folder is nobody's to remove
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, os.path.join(folder, _LOCK))  # by this name it was never unlocked
    return lock


def _remove_left(root: str) -> None:
    for path in iglob(os.path.join(escape(root), f"{_PREFIX}*", _LOCK), include_hidden=True):
        with suppress(OSError), open(path, "r+") as lock:  # in use, or somebody else's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)

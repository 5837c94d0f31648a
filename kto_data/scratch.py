"""Folders for temporary files that are gone sooner or later, however the process ends that made them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from glob import escape, iglob
from typing import IO

_PREFIX = f"kto{hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:4]}-"
"""Of this machine: on a file system that others share, their locks may not be seen. Short: Ray puts sockets below."""
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
        weakref.finalize(self, self._lock.close)  # first, also at exit: an open file keeps a folder there on NFS

    def cleanup(self) -> None:
        """Remove it, and all in it."""
        self._lock.close()
        super().cleanup()


def _locked(folder: str) -> IO[str]:
    lock = open(os.path.join(folder, f"{_LOCK}.new"), "w")  # noqa: SIM115 - as long as the folder is in use
    with suppress(OSError):  # a file system without locks: then the folder is nobody's to remove
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, os.path.join(folder, _LOCK))  # by this name it was never unlocked
    return lock


def _remove_left(root: str) -> None:
    for path in iglob(os.path.join(escape(root), f"{_PREFIX}*", _LOCK), include_hidden=True):
        with suppress(OSError):  # in use, or somebody else's
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(os.path.dirname(path), ignore_errors=True)
            finally:
                os.close(descriptor)

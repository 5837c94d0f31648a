"""Files that are there whole or not at all: a temporary file in the same folder, synced and renamed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kto_data.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINTS = {
    **dict.fromkeys(_FULL, "free some space, or write to another folder"),
    errno.ENOENT: "make its folder first, or correct the name",
    errno.ENOTDIR: "make its folder first, or correct the name",
    errno.EISDIR: "name a file in that folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either there with all of `content`, or as it was before."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. Where the block ends well it takes the place of the one at `path` and has its mode; where
    not, nothing has changed. A device or a pipe is written to as it is: in its place, a file would harm others.

    Raises `InputError` when the disk is full or the folder cannot be written to.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with writing_to(path), open(path, "wb") as file:
            yield file
        return
    # No process number: on a file system that machines share, two of them may have the same one.
    temporary = path.with_name(f".{path.name}.{int.from_bytes(os.urandom(6))}.tmp")
    with writing_to(path):
        try:
            with open(temporary, "wb") as file:
                if path.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Makes of a full disk or a missing permission an `InputError` that names the file."""
    try:
        yield
    except BrokenPipeError:  # a reader of our output has gone, which is no matter of this file
        raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "write to another folder")
        raise InputError(f"cannot write {path}: {error.strerror or error}", hint=hint) from None

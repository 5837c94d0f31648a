"""Files that a command is to write: each is one of its own, and none the data that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kto_data.errors import UsageError

if TYPE_CHECKING:
    from kto_data.inputs import Input

Place = tuple[str, Path | None]
"""An option, and the file that it names; None or `-` where it names none."""


def refuse_shared(inputs: Sequence[Input], places: Iterable[Place]) -> None:
    """Raises `UsageError` where a file that is to be written is an input, or is to hold something else as well."""
    from kto_data.source import STDIN

    taken = {_identity(entry.source.path): "the input" for entry in inputs if entry.source.path != STDIN}
    for option, path in places:
        if path is None or str(path) == STDIN or (path.exists() and not path.is_file()):
            continue  # a pipe or /dev/null holds nothing that could be lost
        if (other := taken.setdefault(_identity(path), option)) != option:
            raise UsageError(f"{option} {path} is also {other}", hint="give each a file of its own")


def _identity(path: str | Path) -> object:
    """The same for all names of a file: links, and names of files that are not there yet."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # not there, or a URL
        return os.path.realpath(path)
    return status.st_dev, status.st_ino

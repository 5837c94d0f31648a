"""Places that options name: where images are, and files to write, each one of its own and none that is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kto_data.errors import InputError, UsageError

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


def refuse_within(cache: Path | str, places: Iterable[Place]) -> None:
    """Raises `UsageError` where a file that is to be written would lie in the folder of a cache; one at a URL has none
    on this machine."""
    for option, path in places if isinstance(cache, Path) else ():
        if path is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cache)):
            raise UsageError(f"{option} {path} is in the cache", hint="name a file outside of it")


def image_folder(given: str | None) -> str | None:
    """The folder, resolved, or the URL that --image-root names. Raises `InputError` where it is neither, and
    `UsageError` where the protocol of the URL is unknown."""
    from kto_data import storage

    if given is None:
        return None
    if storage.is_url(given):
        storage.open_storage(given)
        local = storage.local_path(given)
        if local is None:
            return given
        given = local
    if not os.path.isdir(given):
        raise InputError(f"--image-root {given} is not a folder", hint="name the folder that image paths start from")
    return os.path.realpath(given)


def _identity(path: str | Path) -> object:
    """The same for all names of a file: links, and names of files that are not there yet."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # not there, or a URL
        return os.path.realpath(path)
    return status.st_dev, status.st_ino

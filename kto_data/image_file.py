"""Image files wherever they lie, below a folder or below a URL: which file one is, and all of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from kto_data import image, remote_image, storage
from kto_data.storage import Answer, FileState, Item


def place(root: str, given: str) -> str:
    """Where the image is that data calls `given`: a path, or a URL where the root is one."""
    if storage.is_url(root):
        return storage.below(root, given) or given
    return os.path.join(root, given)


def state(place: str) -> FileState:
    """Which file this is, without reading it. Raises `OSError` where it is gone."""
    if storage.is_url(place):
        return storage.file_state(place)
    return image.state_of(os.stat(place))


@contextmanager
def open_whole(place: str) -> Iterator[IO[bytes]]:
    """The file, to be read from its beginning to its end. Raises `OSError` where it cannot be read."""
    if storage.is_url(place):
        with storage.open_file(place, whole=True) as (remote, _):
            yield remote
    else:
        with open(place, "rb", buffering=0) as file:  # read in blocks, or all at once
            yield file


def sha256(place: str) -> str:
    """The SHA-256 of the file, of which no more than a few blocks are held. Raises `OSError` as `open_whole` does."""
    content = hashlib.sha256()
    with open_whole(place) as file:
        while block := file.read(image.BLOCK_BYTES):
            content.update(block)
    return content.hexdigest()


def read_image(given: str, root: str) -> bytes:
    """The bytes of the image `given` under `root`, a resolved folder or a URL.

    Raises `FileNotFoundError` where there is none, and another `OSError` where it must not be opened or cannot be read.
    """
    read = remote_image.read_image if storage.is_url(root) else image.read_image
    return read(given, root)


def for_each(root: str, call: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """`call(item)` for each of `items`, answers in their order; many at a time where the images of `root` are fetched.

    The first exception is raised here.
    """
    return storage.at_once(call, items) if storage.is_url(root) else list(map(call, items))

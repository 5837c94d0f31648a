"""Whole image files, for their pixels: under the promises of `probe`, and in one place."""

from __future__ import annotations

import errno
import os

from kto_data.image.pixels import OPEN_FLAGS
from kto_data.image.probing import ImageCheck, ProbeStatus, probe


def read_image(given: str, root: str) -> bytes:
    """The bytes of the image `given` under `root`, which must be resolved.

    Raises `FileNotFoundError` where there is none, and another `OSError` where it must not be opened or cannot be read.
    """
    found = probe(given, root, ImageCheck.STAT)
    if found.status is ProbeStatus.NOT_FOUND:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), found.tried)
    if found.status is not ProbeStatus.OK:
        raise OSError(found.status.value)
    with os.fdopen(os.open(os.path.realpath(found.tried), OPEN_FLAGS), "rb") as file:
        return file.read()

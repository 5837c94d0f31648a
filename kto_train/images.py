"""Where the pixels of a row come from: the files below an image root, or those that the cache holds itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from kto_data import image_file, storage
from kto_data.choices import PackImages
from kto_data.encode import ImageRef
from kto_data.image import from_pixels, load_for_training
from kto_data.packing import packed_name


class ImageFiles:
    """The images of a cache, below `folder`: the image root, a folder or a URL, where `packing` is "none", else the
    cache's `images`."""

    def __init__(self, folder: Path | str, packing: PackImages = "none") -> None:
        self._folder = str(folder) if storage.is_url(str(folder)) else os.path.realpath(folder)
        self._packing = packing

    @property
    def hint(self) -> str:
        """What helps where an image is missing or another."""
        if self._packing == "none":
            return "give the place of the images (--image-root DIR), or run `ktodata preprocess` again"
        return "run `ktodata preprocess --no-resume` again, or give the place of the originals: --image-root DIR"

    def path(self, ref: Mapping[str, Any]) -> str:
        """Where the image is, or should be."""
        return image_file.place(self._folder, self._name(ImageRef(**ref)))

    def load(self, ref: Mapping[str, Any]) -> Any:
        """The image as the model sees it: upright, RGB, at the size in the cache.

        Raises `FileNotFoundError` where it is not there, and another `OSError`, `ValueError` or `SyntaxError` where it
        cannot be read or is not the file that the cache was made from.
        """
        wanted = ImageRef(**ref)
        content = image_file.read_image(self._name(wanted), self._folder)
        size = (wanted.width, wanted.height)
        if self._packing == "resized":
            scaled = from_pixels(content)
            if scaled is not None and scaled.size == size:
                return scaled
        if hashlib.sha256(content).hexdigest() != wanted.sha256:
            raise ValueError("it is not the file that the cache was made from")
        return load_for_training(BytesIO(content), size)

    def _name(self, ref: ImageRef) -> str:
        return ref.path if self._packing == "none" else packed_name(ref, self._packing)

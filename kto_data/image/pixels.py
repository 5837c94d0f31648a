"""The pixels that a model sees: the first frame, upright, RGB, within the pixel budget."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from PIL import Image, ImageOps

from kto_data.image.header import BOMB_PIXELS, orientation_of, read_header

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
"""Opens what was looked at, and nothing else that has come into its place."""
_WHITES = (1, 255, 65535)  # the values that mean white, in images of floating-point numbers
_SAME_COLOR = 2  # levels of a channel that nobody can tell apart, and that saving as JPEG may add


def load_upright(path: str | Path | IO[bytes]) -> Image.Image:
    """The first frame of an image, decoded, with the EXIF orientation applied, in its own mode.

    Raises `DECODE_ERRORS` on damaged files, and ValueError where the file is a decompression bomb.
    """
    with Image.open(path) as image:
        if image.width * image.height > BOMB_PIXELS:
            raise ValueError(f"it has more than {BOMB_PIXELS:,} pixels")
        image.load()  # from here on the file is not needed: a copy of the pixels would cost as much as scaling them
        return image if orientation_of(image) == 1 else ImageOps.exif_transpose(image)


def load_for_training(path: str | Path | IO[bytes], size: tuple[int, int]) -> Image.Image:
    """The image as a model sees it: upright, RGB, at `size` (width, height).

    Raises `DECODE_ERRORS` on damaged files, and ValueError where the file is a decompression bomb.
    """
    return resize(to_rgb(load_upright(path)), size)


def is_larger(content: bytes, size: tuple[int, int]) -> bool:
    """Whether the image in `content` has more pixels than `size` (width, height); none is decoded.

    Raises `DECODE_ERRORS` on damaged headers.
    """
    header = read_header(BytesIO(content), len(content))
    return header.pixels > size[0] * size[1]


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, as transformers' `convert_to_rgb` makes it: transparency goes on white.

    Grey of more than 8 bits is scaled; Pillow's own conversion clips it, which turns most pixels white. White is
    65535 for whole numbers; for others it is 1, 255 or 65535, the first that no pixel exceeds; and the brightest pixel
    where that is beyond 65535. What is below 0 is black.
    """
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    if image.mode == "F" or image.mode[0] == "I":
        return _scaled_to_8_bits(image).convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    whites = _WHITES if image.mode == "F" else _WHITES[-1:]
    image = image.convert("F")
    brightest = cast("tuple[float, float]", image.getextrema())[1]
    white = next((white for white in whites if brightest <= white), brightest)
    return image.point(lambda value: value * (255 / white) + 0.5).convert("L")  # to the nearest: the rest is cut off


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` at `size` (width, height), bicubic; the same image where it already has that size."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def blank(size: tuple[int, int]) -> Image.Image:
    """A black RGB image of `size` (width, height): what a processor is asked about a size with."""
    return Image.new("RGB", size)


def noise(size: tuple[int, int]) -> Image.Image:
    """An RGB image of `size` (width, height) with nothing in common with a blank one; always the same."""
    width, height = size
    return Image.frombytes("RGB", size, random.Random(0).randbytes(3 * width * height))


def shows_one_color(image: Image.Image) -> bool:
    """Whether a decoded image shows one colour alone, or nothing but what is transparent."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    extrema = image.getextrema()
    bands = cast("Sequence[tuple[float, float]]", extrema if isinstance(extrema[0], tuple) else (extrema,))
    if image.mode in ("RGBA", "LA", "PA") and bands[-1][1] == 0:
        return True
    return all(high - low <= _SAME_COLOR for low, high in bands)


def thumbnail(path: str, side: int) -> bytes:
    """A small copy of an image as JPEG, upright, no side longer than `side`, without any of its metadata.

    Opens nothing but the regular file that `probe` found. Raises `DECODE_ERRORS` on damaged files.
    """
    with os.fdopen(os.open(path, OPEN_FLAGS), "rb") as file, Image.open(file) as image:
        turn = orientation_of(image)
        image.draft("RGB", (2 * side, 2 * side))  # a large JPEG need not be decoded in full
        image.load()
        small = to_rgb(image if turn == 1 else ImageOps.exif_transpose(image))
    small.thumbnail((side, side))
    small.info.clear()  # comments would be saved with it
    saved = BytesIO()
    small.save(saved, "JPEG", quality=70)
    return saved.getvalue()

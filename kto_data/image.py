"""Images by their headers: size, orientation, pixel budget. The only home of Pillow.

`ImageHeader.width` and `.height` are those of the upright image, after the EXIF orientation is applied: the size that
training sees. `PixelBudget.fit` gives the size after the user's pixel budget. `validate`, `preprocess` and the
training collator all take both from here, so that the tokens counted are the tokens fed.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 16_777_216
"""Pixels above which an image is pointed out where no budget is given (4096 x 4096)."""
DEFAULT_MIN_PIXELS = 784
"""Pixels under which an image is pointed out where no budget is given (28 x 28, one merged patch of many models)."""
BOMB_PIXELS = 2 * 89_478_485
"""Pixels above which a header is taken for a decompression bomb and the image is never decoded (Pillow's limit)."""

_EXIF_ORIENTATION = 0x0112
_TRANSPOSING_ORIENTATIONS = frozenset({5, 6, 7, 8})
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_END_WINDOW = 4096  # bytes at the end searched for the marker: cameras append data behind it

_DECODE_ERRORS = (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, ZeroDivisionError, MemoryError)
"""What Pillow raises on damaged files, besides `UnidentifiedImageError` (an OSError)."""


class ImageCheck(StrEnum):
    """How closely images are looked at, each level including those before it."""

    OFF = "off"  # not at all
    STAT = "stat"  # the path, and what is there
    HEADER = "header"  # the first bytes, for size and format, and the end marker
    DECODE = "decode"  # every pixel


class ProbeStatus(StrEnum):
    """What became of looking at one image path."""

    OK = "ok"
    REMOTE = "remote"  # a URL: never fetched
    ESCAPES_ROOT = "escapes root"  # resolves to a place outside the image root: never opened
    NOT_FOUND = "not found"
    NOT_REGULAR = "not a regular file"  # a directory, a FIFO, a device: never opened
    UNREADABLE = "unreadable"  # empty, of an unknown type, or no image
    TRUNCATED = "truncated"  # a known type whose end is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What the first bytes of an image say. Sizes in pixels, of the upright image."""

    width: int
    height: int
    format: str  # as Pillow names it: "JPEG", "PNG", …
    mode: str  # as Pillow names it: "RGB", "L", "CMYK", "I;16", …
    orientation: int  # EXIF, 1 to 8; 1 is upright
    num_frames: int
    num_bytes: int

    @property
    def pixels(self) -> int:
        """Area of the upright image."""
        return self.width * self.height

    @property
    def aspect_ratio(self) -> float:
        """The longer side over the shorter one."""
        return max(self.width, self.height) / max(1, min(self.width, self.height))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProbe:
    """One image path of a record and what was found there. `header` is set where `status` is OK or TRUNCATED."""

    given: str  # the path as the record has it
    tried: str  # the path on disk
    status: ProbeStatus
    header: ImageHeader | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBudget:
    """Bounds on the pixels of one image; None is no bound."""

    min_pixels: int | None = None
    max_pixels: int | None = None

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) within the budget.

        Scales by sqrt(max_pixels / area) or sqrt(min_pixels / area) with the aspect ratio kept and both sides
        truncated to whole pixels: the arithmetic of LLaMA-Factory's `image_max_pixels` and `image_min_pixels`, so that
        the same two numbers give the same sizes. A side never falls under one pixel.
        """
        if self.max_pixels is not None and width * height > self.max_pixels:
            factor = math.sqrt(self.max_pixels / (width * height))
            width, height = max(1, int(width * factor)), max(1, int(height * factor))
        if self.min_pixels is not None and width * height < self.min_pixels:
            factor = math.sqrt(self.min_pixels / (width * height))
            width, height = int(width * factor), int(height * factor)
        return width, height


def probe(given: str, root: Path, check: ImageCheck) -> ImageProbe:
    """Look at the image `given` under `root`, as closely as `check` says.

    Data is untrusted: nothing outside the root is opened, nothing but a regular file is opened, nothing is fetched,
    and no bomb is decoded. `root` must be resolved.
    """
    if "://" in given or given.startswith("data:"):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    tried = os.path.join(root, given)
    try:
        real = os.path.realpath(tried)
    except (OSError, ValueError) as error:  # a NUL byte in the path, a name too long
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.NOT_FOUND, detail=str(error))
    if os.path.commonpath([root, real]) != str(root):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=real)
    try:
        info = os.stat(real)
    except (OSError, ValueError) as error:
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.NOT_FOUND, detail=_reason(error))
    if not stat.S_ISREG(info.st_mode):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.NOT_REGULAR, detail=_kind(info.st_mode))
    if check is ImageCheck.STAT:
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.OK)
    return _probe_content(given, real, info.st_size, check)


def _probe_content(given: str, path: str, num_bytes: int, check: ImageCheck) -> ImageProbe:
    def result(status: ProbeStatus, header: ImageHeader | None = None, detail: str = "") -> ImageProbe:
        return ImageProbe(given=given, tried=path, status=status, header=header, detail=detail)

    if num_bytes == 0:
        return result(ProbeStatus.UNREADABLE, detail="the file is empty")
    try:
        with open(path, "rb") as file:
            try:
                header = read_header(file, num_bytes)
            except UnidentifiedImageError:
                return result(ProbeStatus.UNREADABLE, detail="not an image of a known type")
            except _DECODE_ERRORS as error:
                return result(ProbeStatus.UNREADABLE, detail=_reason(error))
            marker = _END_MARKERS.get(header.format)
            if marker is not None and marker not in _tail(file, num_bytes):
                return result(ProbeStatus.TRUNCATED, header, f"the {header.format} end marker is missing")
    except OSError as error:
        return result(ProbeStatus.UNREADABLE, detail=_reason(error))
    if check is ImageCheck.DECODE and header.pixels <= BOMB_PIXELS:
        try:
            load_upright(path)
        except _DECODE_ERRORS as error:
            return result(ProbeStatus.TRUNCATED, header, _reason(error))
    return result(ProbeStatus.OK, header)


def read_header(file: IO[bytes], num_bytes: int) -> ImageHeader:
    """The header of an open image file; no pixel is decoded.

    Raises `PIL.UnidentifiedImageError` for what is no image, and what Pillow raises on damaged headers.
    """
    with _without_bomb_limit(), Image.open(file) as image:
        width, height = image.size
        orientation = _orientation(image)
        if orientation in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        return ImageHeader(
            width=width,
            height=height,
            format=image.format or "",
            mode=image.mode,
            orientation=orientation,
            num_frames=getattr(image, "n_frames", 1),
            num_bytes=num_bytes,
        )


def load_upright(path: str | Path) -> Image.Image:
    """The first frame of an image, decoded, with the EXIF orientation applied, in its own mode.

    Raises OSError and ValueError on damaged files.
    """
    with Image.open(path) as image:
        image.load()
        if _orientation(image) == 1:
            return image.copy()
        return ImageOps.exif_transpose(image)


def load_for_training(path: str | Path, size: tuple[int, int]) -> Image.Image:
    """The image as a model sees it: upright, RGB, at `size` (width, height).

    Raises OSError and ValueError on damaged files, and ValueError where the file is a decompression bomb.
    """
    return resize(to_rgb(load_upright(path)), size)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, as transformers' `convert_to_rgb` makes it: transparency goes on white.

    16-bit greyscale is scaled to 8 bits; Pillow's own conversion clips it, which turns most pixels white.
    """
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` at `size` (width, height), bicubic; the same image where it already has that size."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def blank(size: tuple[int, int]) -> Image.Image:
    """A black RGB image of `size` (width, height): what a processor is asked about a size with."""
    return Image.new("RGB", size)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 where there is none, or none that can be read: such an image is taken as it lies."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tail(file: IO[bytes], num_bytes: int) -> bytes:
    file.seek(max(0, num_bytes - _END_WINDOW))
    return file.read()


@contextmanager
def _without_bomb_limit() -> Iterator[None]:
    """Opens headers of any size: the limit is ours (`BOMB_PIXELS`), and nothing is decoded here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "not a file"

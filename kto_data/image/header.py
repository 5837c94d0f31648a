"""What the first bytes of an image say: its size upright, its kind, and whether it may be decoded at all."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from PIL import Image, UnidentifiedImageError

from kto_data.image_header import HeaderFacts, png_says_more_behind_pixels

BOMB_PIXELS = 89_478_485
"""Pixels above which a header is taken for a decompression bomb and the image is never decoded: where Pillow warns of
one. As RGB that is 256 MiB, so that two processes stay well under a gigabyte."""

_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_TRANSPOSING_ORIENTATIONS = frozenset({5, 6, 7, 8})
_GIF_SCREEN = struct.Struct("<6xHH")  # the size of the canvas, behind the signature

DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, ArithmeticError, MemoryError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
"""What Pillow raises on damaged files, besides `UnidentifiedImageError` (an OSError)."""
NotAnImageError = UnidentifiedImageError
"""What Pillow raises on files of no type that it knows."""


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
    has_transparency: bool = False  # an alpha channel, or a colour that counts as transparent

    @property
    def pixels(self) -> int:
        """Area of the upright image."""
        return self.width * self.height

    @property
    def aspect_ratio(self) -> float:
        """The longer side over the shorter one."""
        return max(self.width, self.height) / max(1, min(self.width, self.height))


def read_header(file: IO[bytes], num_bytes: int) -> ImageHeader:
    """The header of an open image file, by Pillow.

    No pixel is decoded, save of a PNG that is no bomb and has metadata behind its pixels. Raises
    `PIL.UnidentifiedImageError` for what is no image, and what Pillow raises on damaged headers.
    """
    head = file.read(_GIF_SCREEN.size)
    file.seek(0)
    if head.startswith(b"GIF8"):
        try:
            with _bomb_limit(BOMB_PIXELS // 2):  # Pillow draws frames as it opens them, up to twice its limit
                return _open_header(file, num_bytes)
        except Image.DecompressionBombError:
            return _bomb_header(head, num_bytes)
    with _bomb_limit(None):
        return _open_header(file, num_bytes)


def _bomb_header(head: bytes, num_bytes: int) -> ImageHeader:
    """The header of a GIF that is too large to be opened. Raises ValueError where only a frame of it is."""
    width, height = _GIF_SCREEN.unpack(head)
    if width * height <= BOMB_PIXELS:
        raise ValueError(f"a frame of it has more than {BOMB_PIXELS:,} pixels")
    facts = HeaderFacts(format="GIF", mode="P", width=width, height=height, orientation=1, has_transparency=False)
    return upright_header(facts, num_frames=1, num_bytes=num_bytes)


def _open_header(file: IO[bytes], num_bytes: int) -> ImageHeader:
    with Image.open(file) as image:
        width, height = _stored_size(image)
        facts = HeaderFacts(
            format=image.format or "",
            mode=image.mode,
            width=width,
            height=height,
            orientation=orientation_of(image, may_decode=not _is_turned_in_front(image, file, num_bytes)),
            has_transparency="A" in image.mode or "transparency" in image.info,
        )
        return upright_header(facts, num_frames=getattr(image, "n_frames", 1), num_bytes=num_bytes)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the orientation is applied: Pillow turns the size of a TIFF when it opens it."""
    if image.format != "TIFF":
        return image.size
    tags = cast(Any, image).tag_v2
    return tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]


def _is_turned_in_front(image: Image.Image, file: IO[bytes], num_bytes: int) -> bool:
    """Whether the orientation can be told without the pixels."""
    if image.format != "PNG" or image.width * image.height > BOMB_PIXELS:
        return True

    def read_at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    position = file.tell()
    try:
        return not png_says_more_behind_pixels(read_at, num_bytes)
    finally:
        file.seek(position)


def upright_header(facts: HeaderFacts, *, num_frames: int, num_bytes: int) -> ImageHeader:
    """What a file's own facts come to once its orientation is applied."""
    is_turned = facts.orientation in _TRANSPOSING_ORIENTATIONS
    return ImageHeader(
        width=facts.height if is_turned else facts.width,
        height=facts.width if is_turned else facts.height,
        format=facts.format,
        mode=facts.mode,
        orientation=facts.orientation,
        num_frames=num_frames,
        num_bytes=num_bytes,
        has_transparency=facts.has_transparency,
    )


def orientation_of(image: Image.Image, *, may_decode: bool = True) -> int:
    """EXIF orientation; 1 where there is none, or none that can be read: such an image is taken as it lies."""
    try:
        # A PNG's own `getexif` decodes all pixels, in search of what may stand behind them.
        exif = image.getexif() if may_decode else Image.Image.getexif(image)
        value = exif.get(_EXIF_ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextmanager
def _bomb_limit(pixels: int | None) -> Iterator[None]:
    """Opens headers of any size, or of `pixels` with Pillow's own limit: ours (`BOMB_PIXELS`) comes afterwards, and
    nothing is decoded here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit

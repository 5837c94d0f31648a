"""Images by their headers: size, orientation, pixel budget. The only home of Pillow.

`ImageHeader.width` and `.height` are those of the upright image, after the EXIF orientation is applied: the size that
training sees. `PixelBudget.fit` gives the size after the user's pixel budget. `validate`, `preprocess` and the
training collator all take both from here, so that the tokens counted are the tokens fed.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

from PIL import Image, ImageOps, UnidentifiedImageError

from kto_data.image_header import HEAD_BYTES, HeaderFacts, png_says_more_behind_pixels, read_facts

DEFAULT_MAX_PIXELS = 16_777_216
"""Pixels above which an image is pointed out where no budget is given (4096 x 4096)."""
DEFAULT_MIN_PIXELS = 784
"""Pixels under which an image is pointed out where no budget is given (28 x 28, one merged patch of many models)."""
BOMB_PIXELS = 89_478_485
"""Pixels above which a header is taken for a decompression bomb and the image is never decoded: where Pillow warns of
one. As RGB that is 256 MiB, so that two processes stay well under a gigabyte."""

_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_TRANSPOSING_ORIENTATIONS = frozenset({5, 6, 7, 8})
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW  # what was looked at, should it have changed
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_GIF_SCREEN = struct.Struct("<6xHH")  # the size of the canvas, behind the signature
_SAME_COLOR = 2  # levels of a channel that nobody can tell apart, and that saving as JPEG may add
END_WINDOW = 4096  # bytes at the end searched for the marker: cameras append data behind it

DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, ArithmeticError, MemoryError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
"""What Pillow raises on damaged files, besides `UnidentifiedImageError` (an OSError)."""
NotAnImageError = UnidentifiedImageError
"""What Pillow raises on files of no type that it knows."""


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
    IO_ERROR = "io error"  # there, it seems, but the system would not show it


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProbe:
    """One image path of a record and what was found there. `header` is set where `status` is OK or TRUNCATED."""

    given: str  # the path as the record has it
    tried: str  # the path on disk
    status: ProbeStatus
    header: ImageHeader | None = None
    detail: str = ""
    is_blank: bool | None = None  # all of one colour; None where it was not decoded


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


def probe(given: str, root: str | Path, check: ImageCheck) -> ImageProbe:
    """Look at the image `given` under `root`, as closely as `check` says.

    Data is untrusted: nothing outside the root is opened, nothing but a regular file is opened, nothing is fetched,
    and no bomb is decoded. `root` must be resolved.
    """
    if ":" in given and ("://" in given or given.startswith("data:")):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    root = os.fspath(root)
    tried = os.path.join(root, given)
    try:
        folder, _, name = tried.rpartition("/")
        real = f"{_real_folder(folder or '/')}/{name}"
        info = os.lstat(real)
        if name in ("", ".", "..") or stat.S_ISLNK(info.st_mode):
            real = os.path.realpath(tried)
            info = os.stat(real)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        return _not_found(given, tried, root, error)
    if not _is_inside(real, root):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=real)
    if not stat.S_ISREG(info.st_mode):
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.NOT_REGULAR, detail=_kind(info.st_mode))
    if check is ImageCheck.STAT:
        return ImageProbe(given=given, tried=tried, status=ProbeStatus.OK)
    return _probe_content(given, real, info.st_size, check)


@lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    """`path` without symbolic links; images of a dataset lie in few folders, and resolving one takes a while."""
    return os.path.realpath(path)


def _not_found(given: str, tried: str, root: str, error: OSError | ValueError) -> ImageProbe:
    # Also of what is not there it is said first that it would be outside.
    with suppress(OSError, ValueError):
        real = os.path.realpath(tried)
        if not _is_inside(real, root):
            return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT, detail=real)
    is_absent = isinstance(error, ValueError) or error.errno in _ABSENT
    status = ProbeStatus.NOT_FOUND if is_absent else ProbeStatus.IO_ERROR
    return ImageProbe(given=given, tried=tried, status=status, detail=_reason(error))


def _is_inside(path: str, root: str) -> bool:
    return path.startswith(root if root.endswith(os.sep) else root + os.sep) or path == root


def _probe_content(given: str, path: str, num_bytes: int, check: ImageCheck) -> ImageProbe:
    def result(status: ProbeStatus, header: ImageHeader | None = None, detail: str = "") -> ImageProbe:
        return ImageProbe(given=given, tried=path, status=status, header=header, detail=detail)

    if num_bytes == 0:
        return result(ProbeStatus.UNREADABLE, detail="the file is empty")
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            head = os.read(descriptor, HEAD_BYTES)
            try:
                header = _read_header(head, descriptor, num_bytes)
            except UnidentifiedImageError:
                return result(ProbeStatus.UNREADABLE, detail="not an image of a known type")
            except DECODE_ERRORS as error:
                if isinstance(error, OSError) and error.errno is not None:  # not of Pillow's making
                    raise
                return result(ProbeStatus.UNREADABLE, detail=_reason(error))
            marker = END_MARKERS.get(header.format)
            if marker is not None:
                tail = head if num_bytes <= len(head) else _tail(descriptor, num_bytes)
                if marker not in tail:
                    return result(ProbeStatus.TRUNCATED, header, f"the {header.format} end marker is missing")
        finally:
            os.close(descriptor)
    except OSError as error:
        return result(ProbeStatus.IO_ERROR, detail=_reason(error))
    if check is ImageCheck.DECODE and header.pixels <= BOMB_PIXELS:
        try:
            is_blank = shows_one_color(load_upright(path))
        except DECODE_ERRORS as error:
            return result(ProbeStatus.TRUNCATED, header, _reason(error))
        return replace(result(ProbeStatus.OK, header), is_blank=is_blank)
    return result(ProbeStatus.OK, header)


def shows_one_color(image: Image.Image) -> bool:
    """Whether a decoded image shows one colour alone, or nothing but what is transparent."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    extrema = image.getextrema()
    bands = cast("Sequence[tuple[float, float]]", extrema if isinstance(extrema[0], tuple) else (extrema,))
    if image.mode in ("RGBA", "LA", "PA") and bands[-1][1] == 0:
        return True
    return all(high - low <= _SAME_COLOR for low, high in bands)


def _read_header(head: bytes, descriptor: int, num_bytes: int) -> ImageHeader:
    facts = read_facts(head, lambda offset, count: os.pread(descriptor, count, offset))
    if facts is None:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            return read_header(file, num_bytes)
    return _upright(facts, num_frames=1, num_bytes=num_bytes)


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
    return _upright(facts, num_frames=1, num_bytes=num_bytes)


def _open_header(file: IO[bytes], num_bytes: int) -> ImageHeader:
    with Image.open(file) as image:
        width, height = _stored_size(image)
        facts = HeaderFacts(
            format=image.format or "",
            mode=image.mode,
            width=width,
            height=height,
            orientation=_orientation(image, may_decode=not _is_turned_in_front(image, file)),
            has_transparency="A" in image.mode or "transparency" in image.info,
        )
        return _upright(facts, num_frames=getattr(image, "n_frames", 1), num_bytes=num_bytes)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the orientation is applied: Pillow turns the size of a TIFF when it opens it."""
    if image.format != "TIFF":
        return image.size
    tags = cast(Any, image).tag_v2
    return tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]


def _is_turned_in_front(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the orientation can be told without the pixels."""
    if image.format != "PNG" or image.width * image.height > BOMB_PIXELS:
        return True

    def read_at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    position = file.tell()
    try:
        return not png_says_more_behind_pixels(read_at)
    finally:
        file.seek(position)


def _upright(facts: HeaderFacts, *, num_frames: int, num_bytes: int) -> ImageHeader:
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


def load_upright(path: str | Path | IO[bytes]) -> Image.Image:
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


def thumbnail(path: str, side: int) -> bytes:
    """A small copy of an image as JPEG, upright, no side longer than `side`, without any of its metadata.

    Opens nothing but the regular file that `probe` found. Raises `DECODE_ERRORS` on damaged files.
    """
    with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as file, Image.open(file) as image:
        turn = _orientation(image)
        image.draft("RGB", (2 * side, 2 * side))  # a large JPEG need not be decoded in full
        image.load()
        small = to_rgb(image if turn == 1 else ImageOps.exif_transpose(image))
    small.thumbnail((side, side))
    small.info.clear()  # comments would be saved with it
    saved = BytesIO()
    small.save(saved, "JPEG", quality=70)
    return saved.getvalue()


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


def _orientation(image: Image.Image, *, may_decode: bool = True) -> int:
    """EXIF orientation; 1 where there is none, or none that can be read: such an image is taken as it lies."""
    try:
        # A PNG's own `getexif` decodes all pixels, in search of what may stand behind them.
        exif = image.getexif() if may_decode else Image.Image.getexif(image)
        value = exif.get(_EXIF_ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tail(descriptor: int, num_bytes: int) -> bytes:
    return os.pread(descriptor, END_WINDOW, max(0, num_bytes - END_WINDOW))


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

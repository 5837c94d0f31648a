"""KTO206 to KTO215: what an image is: its size, its kind, its pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kto_data.finding import Scalar, Severity
from kto_data.image import BOMB_PIXELS, DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, ImageCheck, ImageHeader
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import ImageFacts, RowImages
from kto_data.rules.words import counted, shown_path

MAX_ASPECT_RATIO = 200
"""The longer side over the shorter one; above it the processors of the Qwen families raise."""
DEFAULT_ROW_MAX_PIXELS = 2 * DEFAULT_MAX_PIXELS
"""Pixels of a record's images above which they are pointed out where no bound is given: some 40,000 tokens."""

_FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "ICO": ("ico",),
    "AVIF": ("avif",),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k"),
}
_FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in _FORMATS.items() for suffix in suffixes}
_SAME_AS = {"MPO": "JPEG", "DIB": "BMP"}  # a JPEG with more pictures behind the first; a BMP without its file header
_PLAIN_MODES = frozenset({"RGB", "L", "1"})  # come out of the conversion as they went in
_MODES = {
    "CMYK": "has the colours of a printer (CMYK); RGB can only approximate them",
    "YCbCr": "is in YCbCr colours; converting rounds them",
    "LAB": "is in LAB colours; converting rounds them",
    "HSV": "is in HSV colours; converting rounds them",
    "P": "has a palette; read without converting, it is a picture of the palette's numbers",
    "PA": "has a palette; read without converting, it is a picture of the palette's numbers",
    "F": "has floating-point pixels; converting cuts them to 8 bits",
}
_DEEP = "has more than 8 bits a pixel; some converters cut them off, which turns most of it white"


@rule("KTO206", "extension-mismatch", Severity.WARNING, Stage.IMAGE, default=False, needs=ImageCheck.HEADER)
def extension_mismatch(image: ImageFacts) -> Iterator[Defect]:
    """The suffix of an image's name should say its format.

    Readers that go by the suffix fail on the file, or treat it wrongly; those that go by the content do not mind.

    Bad:  `photos/1.png`, which is a JPEG
    Good: `photos/1.jpg`, which is a JPEG
    """
    header, given = image.probe.header, image.probe.given
    if header is None:
        return
    suffix = os.path.splitext(given)[1][1:].lower()
    says = _FORMAT_OF_SUFFIX.get(suffix)
    if says is not None and says != _SAME_AS.get(header.format, header.format):
        yield Defect(
            f"{_name(image)} is {_article(header.format)} {header.format}, not {_article(says)} {says}",
            data=(("suffix", suffix), ("format", header.format)),
        )


@rule("KTO207", "unsupported-mode", Severity.WARNING, Stage.IMAGE, default=False, needs=ImageCheck.HEADER)
def unsupported_mode(image: ImageFacts) -> Iterator[Defect]:
    """Images should be RGB or grey, with 8 bits a channel and without transparency.

    All others change on the way to the RGB that models see, and each tool changes them in its own way: here
    transparency goes on white, elsewhere on black.

    Bad:  a PNG with an alpha channel, a JPEG in CMYK
    Good: a JPEG in RGB
    """
    header = image.probe.header
    if header is None or (header.mode in _PLAIN_MODES and not header.has_transparency):
        return
    if header.has_transparency or header.mode in ("RGBA", "LA", "La", "RGBa"):
        change = "has transparency; it goes on white here, elsewhere on black"
    else:
        change = _MODES.get(header.mode, _DEEP)
    yield Defect(f"{_name(image)} {change}", data=(("mode", header.mode),))


@rule("KTO208", "animated-image", Severity.WARNING, Stage.IMAGE, default=False, needs=ImageCheck.HEADER)
def animated_image(image: ImageFacts) -> Iterator[Defect]:
    """An image should have one frame, or page.

    Only the first is used. Where the answer speaks of what happens later, the model learns to make it up.

    Bad:  a GIF of 40 frames
    Good: the one frame that the conversation is about
    """
    header = image.probe.header
    # The further pictures of an MPO are views or previews of the first.
    if header and header.num_frames > 1 and header.format != "MPO":
        what = "pages" if header.format == "TIFF" else "frames"
        yield Defect(
            f"{_name(image)} has {header.num_frames:,} {what}; only the first is used",
            data=(("frames", header.num_frames),),
        )


@rule("KTO209", "exif-orientation", Severity.WARNING, Stage.IMAGE, default=False, needs=ImageCheck.HEADER)
def exif_orientation(image: ImageFacts) -> Iterator[Defect]:
    """Images should be stored upright.

    A camera held sideways stores the picture lying, and a note in EXIF how to turn it. It is turned here; trainers
    that do not look at the note show the model a world that lies on its side.

    Bad:  a photo of 4000 x 3000 with orientation 6
    Good: the same photo stored as 3000 x 4000
    """
    header = image.probe.header
    if header and header.orientation != 1:
        yield Defect(
            f"{_name(image)} is stored {_turned(header.orientation)} (EXIF orientation {header.orientation})",
            data=(("orientation", header.orientation),),
        )


@rule("KTO210", "over-pixel-budget", Severity.WARNING, Stage.IMAGE, needs=ImageCheck.HEADER)
def over_pixel_budget(image: ImageFacts) -> Iterator[Defect]:
    """Images should not have more pixels than the budget.

    They will be scaled down to `--image-max-pixels`; small print in them may become unreadable. Without a budget,
    images above 16,777,216 pixels (4096 x 4096) are pointed out.

    Bad:  a photo of 8000 x 6000 with `--image-max-pixels 589824`
    Good: a photo of 768 x 768
    """
    header = image.probe.header
    limit = image.budget.max_pixels or DEFAULT_MAX_PIXELS
    if header and limit < header.pixels <= BOMB_PIXELS:
        yield Defect(
            f"{_name(image)} has {_size(header)}, over the {_limit(limit, image.budget.max_pixels)}",
            data=_size_data(header, limit),
        )


@rule("KTO211", "under-min-pixels", Severity.WARNING, Stage.IMAGE, needs=ImageCheck.HEADER)
def under_min_pixels(image: ImageFacts) -> Iterator[Defect]:
    """Images should not have fewer pixels than the minimum.

    They will be scaled up to `--image-min-pixels`; often they are icons, or the remains of a failed conversion.
    Without a minimum, images under 784 pixels (28 x 28) are pointed out.

    Bad:  a tracking pixel of 1 x 1
    Good: a photo of 768 x 768
    """
    header = image.probe.header
    limit = image.budget.min_pixels or DEFAULT_MIN_PIXELS
    if header and header.pixels < limit:
        yield Defect(
            f"{_name(image)} has {_size(header)}, under the {_limit(limit, image.budget.min_pixels)}",
            data=_size_data(header, limit),
        )


@rule("KTO212", "extreme-aspect-ratio", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def extreme_aspect_ratio(image: ImageFacts) -> Iterator[Defect]:
    """The longer side of an image must not be over 200 times the shorter one.

    The processors of the Qwen families raise an exception on such an image, in the middle of training.

    Bad:  a ruler of 4000 x 10
    Good: a photo of 4000 x 3000
    """
    header = image.probe.header
    if header and header.aspect_ratio > MAX_ASPECT_RATIO:
        ratio = f"{header.aspect_ratio:,.0f} to 1"
        yield Defect(
            f"{_name(image)} is {header.width:,} x {header.height:,}: {ratio}, over {MAX_ASPECT_RATIO}",
            data=_size_data(header, MAX_ASPECT_RATIO),
        )


@rule("KTO213", "decompression-bomb", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def decompression_bomb(image: ImageFacts) -> Iterator[Defect]:
    """An image must not unpack to more pixels than memory can bear.

    A file of some kilobytes can claim gigapixels. The header is believed, and the image is never decoded.

    Bad:  a PNG of 40 kB that claims 60,000 x 60,000
    Good: at most 89,478,485 pixels
    """
    header = image.probe.header
    if header and header.pixels > BOMB_PIXELS:
        yield Defect(
            f"{_name(image)} claims {_size(header)}, over {BOMB_PIXELS:,}", data=_size_data(header, BOMB_PIXELS)
        )


@rule("KTO214", "blank-image", Severity.WARNING, Stage.IMAGE, default=False, needs=ImageCheck.DECODE)
def blank_image(image: ImageFacts) -> Iterator[Defect]:
    """An image should show something.

    All pixels of one colour, or all transparent: a failed screenshot, or a frame before the film began. The answer
    then speaks of what is not to be seen.

    Bad:  a screenshot that is white from edge to edge
    Good: a screenshot of a page
    """
    if image.probe.is_blank:
        yield Defect(f"{_name(image)} is of one colour from edge to edge")


@rule("KTO215", "row-pixel-budget", Severity.WARNING, Stage.ROW_IMAGES, needs=ImageCheck.HEADER)
def row_pixel_budget(images: RowImages) -> Iterator[Defect]:
    """The images of a record should not have more pixels together than the budget.

    Each may be within its own budget, and all of them fill the context window, or the memory. They count as training
    sees them, after `--image-max-pixels`. Without `--row-max-pixels`, several images with more than 33,554,432 pixels
    together (two of 4096 x 4096) are pointed out.

    Bad:  twelve photos of 2048 x 2048 in one record
    Good: four photos of 768 x 768
    """
    limit = images.max_pixels or DEFAULT_ROW_MAX_PIXELS
    pixels = images.pixels
    # One image by itself is the matter of KTO210, unless a bound for the record was asked for.
    if pixels > limit and (len(images.probes) > 1 or images.max_pixels):
        several = "the image has" if len(images.probes) == 1 else f"the {len(images.probes):,} images have"
        yield Defect(
            f"{several} {pixels:,} pixels together, over the {_limit(limit, images.max_pixels)}",
            data=(("images", len(images.probes)), ("pixels", pixels), ("limit", limit)),
        )


def _name(image: ImageFacts) -> str:
    return shown_path(image.probe.given)


def _size(header: ImageHeader) -> str:
    return f"{header.width:,} x {header.height:,} = {counted(header.pixels, 'pixel')}"


def _size_data(header: ImageHeader, limit: int) -> tuple[tuple[str, Scalar], ...]:
    return (("width", header.width), ("height", header.height), ("pixels", header.pixels), ("limit", limit))


def _limit(limit: int, given: int | None) -> str:
    return f"{'budget' if given else 'usual'} {limit:,}"


def _article(format: str) -> str:
    return "an" if format[:1] in "AIEOM" else "a"


def _turned(orientation: int) -> str:
    """How a picture of an EXIF orientation from 2 to 8 lies in its file."""
    return {
        2: "mirrored",
        3: "upside down",
        4: "upside down and mirrored",
        5: "on its side and mirrored",
        6: "on its side",
        7: "on its side and mirrored",
        8: "on its side",
    }[orientation]

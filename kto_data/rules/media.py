"""KTO2xx: image references, looked at as closely as `--images` says."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.image import BOMB_PIXELS, DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, ImageCheck, ImageHeader, ProbeStatus
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import ImageFacts

MAX_ASPECT_RATIO = 200
"""The longer side over the shorter one; above it the processors of the Qwen families raise."""


@rule("KTO201", "image-not-found", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.STAT)
def image_not_found(image: ImageFacts) -> Iterator[Defect]:
    """Each image must exist under the image root.

    The record's paths start at the image root: `--image-root`, or the folder of the data file. Names are compared to
    the letter, also where this machine's file system does not: the next machine's may.

    Bad:  `"images": ["photos/1.JPG"]`, the file being `photos/1.jpg`
    Good: `"images": ["photos/1.jpg"]`
    """
    probe = image.probe
    if probe.status is not ProbeStatus.NOT_FOUND:
        return
    message = f"'{probe.given}' is not there; tried {probe.tried}"
    existing = _same_but_for_case(probe.tried)
    if existing:
        message += f"; the name that exists is '{existing}'"
    elif not os.path.isdir(os.path.dirname(probe.tried)):
        message += "; its folder does not exist either"
    yield Defect(message)


@rule("KTO202", "image-unreadable", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def image_unreadable(image: ImageFacts) -> Iterator[Defect]:
    """Each image file must be an image.

    Empty files and saved error pages pass for images until something opens them, hours into a training.

    Bad:  `photos/1.jpg` of zero bytes, or holding `<!DOCTYPE html>`
    Good: a file that opens as JPEG, PNG, WebP, …
    """
    if image.probe.status is ProbeStatus.UNREADABLE:
        yield Defect(f"'{image.probe.given}' cannot be read: {image.probe.detail}")


@rule("KTO203", "image-path-escapes-root", Severity.ERROR, Stage.IMAGE)
def image_path_escapes_root(image: ImageFacts) -> Iterator[Defect]:
    """Image paths must stay under the image root.

    Data is untrusted: a path of `../..`, an absolute one, or a symbolic link could name any file of the machine. Such
    files are never opened. Where the images lie elsewhere, name their folder with `--image-root`.

    Bad:  `"images": ["../../etc/passwd"]`
    Good: `"images": ["photos/1.jpg"]`
    """
    probe = image.probe
    if probe.status is ProbeStatus.ESCAPES_ROOT:
        leads = f", it leads to {probe.detail}" if probe.detail and probe.detail != probe.given else ""
        yield Defect(f"'{probe.given}' is outside the image root{leads}")


@rule("KTO204", "image-truncated", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def image_truncated(image: ImageFacts) -> Iterator[Defect]:
    """Each image must be whole.

    Of an interrupted download the header is there and the rest is grey, or decoding stops. By default the end marker
    is looked for; `--images decode` decodes every pixel.

    Bad:  a JPEG without its last bytes
    Good: the file as its author wrote it
    """
    if image.probe.status is ProbeStatus.TRUNCATED:
        yield Defect(f"'{image.probe.given}' is cut: {image.probe.detail}")


@rule("KTO205", "remote-image", Severity.ERROR, Stage.IMAGE)
def remote_image(image: ImageFacts) -> Iterator[Defect]:
    """Images must be files, not URLs.

    Nothing is ever fetched: what a URL answers may be gone or changed at the next epoch, and a record could make the
    machine call anything.

    Bad:  `"images": ["https://example.org/1.jpg"]`
    Good: `"images": ["photos/1.jpg"]`, downloaded before
    """
    if image.probe.status is ProbeStatus.REMOTE:
        what = "inline data" if image.probe.given.startswith("data:") else "a URL"
        yield Defect(f"the image is {what}; download it and give its path")


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
        yield Defect(f"'{image.probe.given}' has {_size(header)}, over the {_limit(limit, image.budget.max_pixels)}")


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
        yield Defect(f"'{image.probe.given}' has {_size(header)}, under the {_limit(limit, image.budget.min_pixels)}")


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
        yield Defect(f"'{image.probe.given}' is {header.width:,} x {header.height:,}: {ratio}, over {MAX_ASPECT_RATIO}")


@rule("KTO213", "decompression-bomb", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def decompression_bomb(image: ImageFacts) -> Iterator[Defect]:
    """An image must not unpack to more pixels than memory can bear.

    A file of some kilobytes can claim gigapixels. The header is believed, and the image is never decoded.

    Bad:  a PNG of 40 kB that claims 60,000 x 60,000
    Good: at most 89,478,485 pixels
    """
    header = image.probe.header
    if header and header.pixels > BOMB_PIXELS:
        yield Defect(f"'{image.probe.given}' claims {_size(header)}, over {BOMB_PIXELS:,}")


@rule("KTO217", "not-a-regular-file", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.STAT)
def not_a_regular_file(image: ImageFacts) -> Iterator[Defect]:
    """An image path must lead to a regular file.

    Opening a FIFO or a device waits for ever; a directory is often an empty string that was joined to the root.

    Bad:  `"images": ["photos"]`
    Good: `"images": ["photos/1.jpg"]`
    """
    if image.probe.status is ProbeStatus.NOT_REGULAR:
        yield Defect(f"'{image.probe.given}' is {image.probe.detail}, not a file")


def _same_but_for_case(tried: str) -> str | None:
    """The name in the same folder that differs from the tried one in case only."""
    folder, name = os.path.split(tried)
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return None
    return next((other for other in names if other.lower() == name.lower()), None)


def _size(header: ImageHeader) -> str:
    return f"{header.width:,} x {header.height:,} = {header.pixels:,} pixels"


def _limit(limit: int, given: int | None) -> str:
    return f"{'budget' if given else 'usual'} {limit:,}"

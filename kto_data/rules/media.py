"""KTO201 to KTO205, KTO216, KTO217 and KTO901: where the path of an image leads. What the image is, is in `picture`."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from kto_data import storage
from kto_data.finding import Severity
from kto_data.image import ImageCheck, ProbeStatus
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import ImageFacts
from kto_data.rules.words import shown_path

_MANY_NAMES = 100_000  # in a folder; beyond it nobody is told of a name that is nearly right
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[1-9]|lpt[1-9])(?:\..*)?", re.IGNORECASE)


@rule("KTO201", "image-not-found", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.STAT)
def image_not_found(image: ImageFacts) -> Iterator[Defect]:
    """Each image must exist under the image root.

    The record's paths start at the image root: `--image-root`, or the folder of the data file. Where a name differs
    from one that exists in upper and lower case alone, in its slashes, or in its Unicode normal form, the message has
    the one that exists.

    Bad:  `"images": ["photos/1.JPG"]`, the file being `photos/1.jpg`
    Good: `"images": ["photos/1.jpg"]`
    """
    probe = image.probe
    if probe.status is not ProbeStatus.NOT_FOUND:
        return
    message = f"{shown_path(probe.given)} is not there; tried {shown_path(probe.tried)}"
    existing = _nearly(probe.given, probe.tried)
    if existing and unicodedata.normalize("NFC", existing) == unicodedata.normalize("NFC", probe.given):
        message += "; a name that looks the same is there, in another Unicode normal form"
    elif existing:
        message += f"; the name that exists is {shown_path(existing)}"
    elif not storage.is_url(probe.tried) and not os.path.isdir(os.path.dirname(probe.tried)):
        message += "; its folder does not exist either"
    yield Defect(message, data=(("exists", existing),) if existing else ())


@rule("KTO202", "image-unreadable", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def image_unreadable(image: ImageFacts) -> Iterator[Defect]:
    """Each image file must be an image.

    Empty files and saved error pages pass for images until something opens them, hours into a training.

    Bad:  `photos/1.jpg` of zero bytes, or holding `<!DOCTYPE html>`
    Good: a file that opens as JPEG, PNG, WebP, …
    """
    if image.probe.status is ProbeStatus.UNREADABLE:
        yield Defect(f"{shown_path(image.probe.given)} cannot be read: {image.probe.detail}")


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
        leads = f", it leads to {shown_path(probe.detail)}" if probe.detail and probe.detail != probe.given else ""
        yield Defect(f"{shown_path(probe.given)} is outside the image root{leads}")


@rule("KTO204", "image-truncated", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.HEADER)
def image_truncated(image: ImageFacts) -> Iterator[Defect]:
    """Each image must be whole.

    Of an interrupted download the header is there and the rest is grey, or decoding stops. By default the end marker
    is looked for; `--images decode` decodes every pixel.

    Bad:  a JPEG without its last bytes
    Good: the file as its author wrote it
    """
    if image.probe.status is ProbeStatus.TRUNCATED:
        yield Defect(f"{shown_path(image.probe.given)} is cut: {image.probe.detail}")


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


@rule("KTO216", "non-portable-path", Severity.WARNING, Stage.IMAGE, fix=Fix.SAFE, default=False)
def non_portable_path(image: ImageFacts) -> Iterator[Defect]:
    """An image path should mean the same file on every system.

    A backslash parts folders on Windows and is a letter elsewhere. Windows also refuses some characters and names, and
    file systems differ on characters that can be written in two ways. Write slashes, and names in NFC.

    Bad:  `"images": ["photos\\\\1.jpg"]`
    Good: `"images": ["photos/1.jpg"]`
    """
    if image.probe.status is not ProbeStatus.REMOTE:
        reason = _why_not_portable(image.probe.given)
        if reason:
            yield Defect(f"{shown_path(image.probe.given)} {reason}")


@rule("KTO217", "not-a-regular-file", Severity.ERROR, Stage.IMAGE, fix=Fix.REJECT, needs=ImageCheck.STAT)
def not_a_regular_file(image: ImageFacts) -> Iterator[Defect]:
    """An image path must lead to a regular file.

    Opening a FIFO or a device waits for ever; a directory is often an empty string that was joined to the root.

    Bad:  `"images": ["photos"]`
    Good: `"images": ["photos/1.jpg"]`
    """
    if image.probe.status is ProbeStatus.NOT_REGULAR:
        yield Defect(f"{shown_path(image.probe.given)} is {image.probe.detail}, not a file")


@rule("KTO901", "io-error", Severity.ERROR, Stage.IMAGE, needs=ImageCheck.STAT)
def io_error(image: ImageFacts) -> Iterator[Defect]:
    """What is there must be readable.

    The file may be sound: the permission to read it is missing, the disk or the network failed, or symbolic links lead
    in a circle. The record is not at fault, and is not to be thrown away for it. A data file that cannot be read stops
    the run instead.

    Bad:  `photos/1.jpg` that belongs to another user, with mode 600
    Good: files that whoever runs the check can read
    """
    if image.probe.status is ProbeStatus.IO_ERROR:
        yield Defect(f"{shown_path(image.probe.given)} could not be looked at: {image.probe.detail}")


def _nearly(given: str, tried: str) -> str | None:
    """The path under the image root that exists, and differs from `given` in case, slashes or normal form alone."""
    if not tried.endswith(given):
        return None
    folder = tried[: len(tried) - len(given)]
    found: list[str] = []
    for wanted in given.replace("\\", "/").split("/"):
        name = wanted if wanted in ("", ".", "..") else _names(os.path.join(folder, *found)).get(_folded(wanted))
        if name is None:
            return None
        found.append(name)
    path = "/".join(found)
    return path if path != given and os.path.lexists(folder + path) else None


@lru_cache(maxsize=4)
def _names(folder: str) -> dict[str, str]:
    """The names in a folder, by what they have in common with their like."""
    try:
        with os.scandir(folder) as entries:
            return {_folded(entry.name): entry.name for entry in islice(entries, _MANY_NAMES)}
    except (OSError, ValueError):
        return {}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _why_not_portable(path: str) -> str:
    if "\\" in path:
        return "has a backslash; write a slash"
    forbidden = _FORBIDDEN.search(path)
    if forbidden:
        return f"has a character that Windows forbids ({forbidden[0]!r})"
    for name in path.split("/"):
        if _RESERVED.fullmatch(name):
            return f"has a name that Windows keeps for a device ({name})"
        if name[-1:] in (" ", ".") and name not in (".", ".."):
            return "has a name that ends with a space or a dot, which Windows drops"
    if not unicodedata.is_normalized("NFC", path):
        return "is not in the Unicode normal form NFC; some file systems will not find it"
    return ""

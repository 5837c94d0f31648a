"""Rows of a cache for people: in a terminal, and as one HTML file with small copies of their images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from kto_data import __version__, remote_image, storage
from kto_data.choices import PackImages
from kto_data.decode import Decoded, Piece, PieceKind
from kto_data.encode import ImageRef
from kto_data.image import ImageCheck, ProbeStatus, probe
from kto_data.local_copy import local_copy
from kto_data.packing import packed_name
from kto_data.report.pictures import MOST_PICTURES, data_uri
from kto_data.report.template import render
from kto_data.report.text import Paint
from kto_data.rules.words import counted
from kto_data.safe_text import printable
from kto_data.shard import CachedRow

_BOLD, _DIM, _GREEN, _YELLOW, _MAGENTA, _CYAN = "1", "2", "32", "33", "35", "36"
_BAR = "│ "  # in front of content, so that no content passes for a heading


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One row with what it says."""

    split: str
    number: int  # 0-based, as `datasets` counts
    row: CachedRow
    decoded: Decoded

    @property
    def label(self) -> str:
        """The label as people know it."""
        return "desirable" if self.row.label else "undesirable"

    def facts(self) -> str:
        """Its lengths in one line."""
        encoded = self.row.encoded
        images = f" ({encoded.num_image_tokens:,} of {counted(len(encoded.images), 'image')})" if encoded.images else ""
        return (
            f"{encoded.num_tokens:,} tokens: prompt {len(encoded.prompt_ids):,}{images}, "
            f"completion {len(encoded.completion_ids):,}"
        )

    def lost_images(self) -> str:
        """What is to be said where an image was not found among the ids; empty where all were."""
        number = len(self.row.encoded.images) - self.decoded.num_placed
        return (
            f"{counted(number, 'image')} could not be told from the text around: shown as its tokens" if number else ""
        )


def image_words(image: ImageRef) -> str:
    """Such as `12x34 px, 256 tokens, images/1.png`."""
    return f"{image.width}x{image.height} px, {counted(image.num_tokens, 'token')}, {image.path}"


def row_lines(shown: ShownRow, paint: Paint) -> Iterator[str]:
    """One row as lines; nothing is cut, and no control character gets through."""
    color = _GREEN if shown.row.label else _YELLOW
    row = shown.row
    record_id = f"  id {printable(row.id)}" if row.id is not None else ""
    place = printable(f"{row.file}:{row.line}")
    title = paint(f"{printable(shown.split)} {shown.number:,}", _BOLD)
    yield f"{title}  {paint(shown.label, color)}  {place}{record_id}"
    yield f"  {shown.facts()}"
    if shown.lost_images():
        yield f"  {shown.lost_images()}"
    yield paint("prompt", _BOLD)
    yield from _content_lines(shown.decoded.prompt, _CYAN, paint)
    yield paint("completion", _BOLD)
    yield from _content_lines(shown.decoded.completion, color, paint)


def _content_lines(pieces: Sequence[Piece], color: str, paint: Paint) -> Iterator[str]:
    line = [paint(_BAR, _DIM)]
    for piece in pieces:
        if piece.image is not None:
            line.append(paint(printable(f"[image {image_words(piece.image)}]"), _BOLD, _MAGENTA))
            continue
        style = _DIM if piece.kind is PieceKind.SPECIAL else color
        first, *others = piece.text.split("\n")
        line.append(paint(printable(first), style))
        for text in others:
            yield "".join(line)
            line = [paint(_BAR, _DIM), paint(printable(text), style)]
    yield "".join(line)


@dataclass(frozen=True, slots=True)
class ImagePlaces:
    """Where the images of a cache are looked for."""

    root: str  # folder or URL that paths start from
    packed: str  # the cache's own
    packing: PackImages

    def picture(self, image: ImageRef) -> str:
        """A small copy as a data URI; empty where the image is not to be had."""
        found = ""
        if self.packing != "none":
            name = packed_name(image, self.packing)
            found = _picture(name, self.packed)
        return found or _picture(image.path, self.root)


def _picture(path: str, root: str) -> str:
    if not storage.is_url(root):
        return data_uri(probe(path, os.path.realpath(root), ImageCheck.HEADER))
    found = remote_image.probe(path, root, ImageCheck.HEADER)
    if found.status is not ProbeStatus.OK:
        return ""
    try:
        return data_uri(replace(found, tried=local_copy(found.tried).path))
    except OSError:
        return ""


def rows_page(cache: str, rows: Iterable[ShownRow], places: ImagePlaces) -> str:
    """The rows as a whole HTML file; of many images the first ones are shown."""
    shown = tuple(rows)
    images = list(dict.fromkeys(image for row in shown for image in row.row.encoded.images))
    pictures = {image: places.picture(image) for image in images[:MOST_PICTURES]}
    return render(
        "rows.html", cache=cache, rows=shown, pictures=pictures, image_words=image_words, version=__version__,
        num_pictures=MOST_PICTURES, num_images=len(images),
    )  # fmt: skip

"""Small copies of the images that findings are about, for a report that is one file.

    Findings ─▶ their records, read again ─▶ Place ─▶ a data URI

Only sound local images below the image root are opened, as every check of them is made by `kto_data.image.probe`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from kto_data import storage
from kto_data.check import CheckedLine, CheckSettings, LineChecker
from kto_data.chunk import Line
from kto_data.finding import Finding
from kto_data.image import BOMB_PIXELS, DECODE_ERRORS, ImageCheck, ImageProbe, ProbeStatus, thumbnail
from kto_data.inputs import Input
from kto_data.report.outcome import Place
from kto_data.source import STDIN

MOST_PICTURES = 36
_SIDE = 160  # pixels: some 5 kB


def take_pictures(
    by_rule: Iterable[Sequence[Finding]], inputs: Sequence[Input], settings: CheckSettings
) -> dict[Place, str]:
    """Pictures for the findings of each rule: the first of every rule, then the second, until there are enough; each
    image once a rule.

    Of a finding about no image in particular it is the first of its record. Standard input cannot be read again, and
    images below a URL are not fetched a second time: their findings have none.
    """
    wanted: dict[str, dict[int, None]] = {}
    findings = [f for turn in zip_longest(*by_rule) for f in turn if f is not None and f.location.line is not None]
    for finding in findings:
        assert finding.location.line is not None
        wanted.setdefault(finding.location.path, {})[finding.location.line] = None
    # What the images are has been checked: here it matters only whether they can be opened.
    settings = replace(settings, images=ImageCheck.HEADER, codes=frozenset(), model=None)
    checked = dict(chain.from_iterable(_read_again(entry, wanted, settings) for entry in inputs))
    pictures: dict[Place, str] = {}
    seen: set[tuple[str, str]] = set()
    for finding in findings:
        where = finding.location
        record = checked.get((where.path, where.line or 0))
        found = _image_of(record, where.pointer) if record is not None else None
        if found is None or (finding.code, found.tried) in seen or len(pictures) >= MOST_PICTURES:
            continue
        seen.add((finding.code, found.tried))
        picture = data_uri(found)
        if picture:
            pictures[(where.path, where.line, where.pointer)] = picture
    return pictures


def _read_again(
    entry: Input, wanted: Mapping[str, Mapping[int, None]], settings: CheckSettings
) -> Iterator[tuple[tuple[str, int], CheckedLine]]:
    numbers = wanted.get(entry.source.path)
    if not numbers or entry.source.path == STDIN:
        return
    checker = LineChecker(entry.layout, settings)
    for line in _lines(entry, max(numbers)):
        if line.number in numbers:
            yield (line.path, line.number), checker.check(line)


def _lines(entry: Input, last: int) -> Iterator[Line]:
    for chunk in entry.source.chunks():
        if chunk.first_line > last:
            return
        yield from chunk.lines()


def _image_of(checked: CheckedLine, pointer: str) -> ImageProbe | None:
    first = None
    for sample in checked.samples:
        for (index, _), probe in zip(sample.row.image_paths, sample.probes, strict=True):
            if pointer and sample.row.user_pointer(f"/images/{index}") == pointer:
                return probe
            first = first or probe
    return first


def data_uri(found: ImageProbe) -> str:
    """The picture, or nothing where the image cannot be shown: what is wrong with it its findings say."""
    if found.status is not ProbeStatus.OK or found.header is None or storage.is_url(found.tried):
        return ""
    if found.header.pixels > BOMB_PIXELS:
        return ""
    try:
        small = thumbnail(found.tried, _SIDE)
    except DECODE_ERRORS:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"

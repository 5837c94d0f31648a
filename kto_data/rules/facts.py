"""What rules look at besides a row: one image, the whole dataset, the user's mapping.

Of the whole dataset only numbers are kept: 28 bytes a sample, and counts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from kto_data.digest import SampleDigest, join_digests
from kto_data.image import BOMB_PIXELS, ImageProbe, PixelBudget
from kto_data.source import Endings

_MANY = 1_000_000  # samples from which grouping in Python would take gigabytes


_NO_LINES = Endings(num_lines=0, num_crlf=0, first_crlf=0, unended=0)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image reference of a record and the budget it is held to."""

    probe: ImageProbe
    budget: PixelBudget


@dataclass(frozen=True, slots=True)
class RowImages:
    """All images of a record together, and the bound on their pixels, if one was given."""

    probes: tuple[ImageProbe, ...]
    budget: PixelBudget
    max_pixels: int | None

    @property
    def pixels(self) -> int:
        """Pixels of all images as training sees them, each within its own budget; bombs are left out."""
        return sum(fitted_pixels(probe, self.budget) for probe in self.probes)


def fitted_pixels(probe: ImageProbe, budget: PixelBudget) -> int:
    """Pixels of an image within the budget; 0 where its size is not known, or nobody will decode it."""
    header = probe.header
    if header is None or header.pixels > BOMB_PIXELS:
        return 0
    width, height = budget.fit(header.width, header.height)
    return width * height


@dataclass(frozen=True, slots=True)
class Crash:
    """An exception in a rule, which is a bug of ours."""

    code: str  # of the rule
    error: Exception


@dataclass(frozen=True, slots=True)
class Cut:
    """A rule that found more than is kept."""

    code: str
    num_found: int
    num_kept: int
    path: str  # the file of its first finding


class Shape(NamedTuple):
    """What is counted of samples, rather than kept of each."""

    label: bool
    num_messages: int
    num_images: int
    source: str  # empty where the record names none


@dataclass(slots=True)
class ChunkFacts:
    """What one unit of work learnt of one file; cheap to hand to another process.

    Of a sample it keeps 28 bytes, in arrays of one length.
    """

    path: str
    split: str = "train"
    prompts: array[int] = field(default_factory=lambda: array("Q"))  # 64-bit numbers, see `kto_data.digest`
    completions: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))  # line number * 2 + label
    lengths: array[int] = field(default_factory=lambda: array("I"))  # of completions, in characters
    shapes: Counter[Shape] = field(default_factory=Counter)
    formats: dict[str, int] = field(default_factory=dict)  # format -> its first line
    endings: Endings | None = None  # where a rule asks for them, and the file consists of lines
    num_unmapped: int = 0  # records whose images the column mapping leaves out
    first_unmapped: int = 0  # the line of the first of them

    def add_sample(self, digest: SampleDigest, line: int, length: int, shape: Shape) -> None:
        """Note one sample that satisfies the schema. `length`: characters of its completion."""
        self.prompts.append(digest.prompt)
        self.completions.append(digest.completion)
        self.places.append(line * 2 + shape.label)
        self.lengths.append(length)
        self.shapes[shape] += 1

    def add_format(self, name: str, line: int) -> None:
        """Note the format of a record."""
        self.formats.setdefault(name, line)

    def add_unmapped(self, line: int) -> None:
        """Note a record whose images the column mapping leaves out."""
        self.first_unmapped = self.first_unmapped or line
        self.num_unmapped += 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample stands, and its label."""

    path: str
    line: int
    label: bool


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """What the user's column mapping does to the data: path -> (first line, number of records)."""

    unmapped_images: dict[str, tuple[int, int]]


class DatasetFacts:
    """All samples together: fed chunk by chunk in the order of the data, then read by the rules."""

    def __init__(self) -> None:
        self.formats: dict[str, tuple[str, int]] = {}  # format -> where it occurs first
        self.endings: dict[str, Endings] = {}  # file -> how its lines end
        self.prompts: array[int] = array("Q")
        self.completions: array[int] = array("Q")
        self.lengths: array[int] = array("I")
        self.shapes: Counter[Shape] = Counter()
        self._places: array[int] = array("Q")
        self._starts: list[int] = []  # index of the first sample of each run of one file
        self._paths: list[str] = []  # the file of each run
        self._splits: list[str] = []  # and its split
        self._unmapped: dict[str, tuple[int, int]] = {}

    def extend(self, chunk: ChunkFacts) -> None:
        """Take in what one chunk learnt."""
        if not self._paths or self._paths[-1] != chunk.path:
            self._starts.append(len(self._places))
            self._paths.append(chunk.path)
            self._splits.append(chunk.split)
        self.prompts.extend(chunk.prompts)
        self.completions.extend(chunk.completions)
        self.lengths.extend(chunk.lengths)
        self.shapes.update(chunk.shapes)
        self._places.extend(chunk.places)
        if chunk.endings is not None:
            before = self.endings.get(chunk.path, _NO_LINES)
            self.endings[chunk.path] = Endings(
                num_lines=before.num_lines + chunk.endings.num_lines,
                num_crlf=before.num_crlf + chunk.endings.num_crlf,
                first_crlf=before.first_crlf or chunk.endings.first_crlf,
                unended=before.unended or chunk.endings.unended,
            )
        for name, line in chunk.formats.items():
            self.formats.setdefault(name, (chunk.path, line))
        if chunk.num_unmapped:
            first, count = self._unmapped.get(chunk.path, (chunk.first_unmapped, 0))
            self._unmapped[chunk.path] = (first, count + chunk.num_unmapped)

    @property
    def num_desirable(self) -> int:
        """Samples labelled true."""
        return sum(count for shape, count in self.shapes.items() if shape.label)

    @property
    def num_samples(self) -> int:
        """Samples that satisfy the schema."""
        return len(self._places)

    @property
    def num_undesirable(self) -> int:
        """Samples labelled false."""
        return self.num_samples - self.num_desirable

    @property
    def first_path(self) -> str:
        """The first file: where findings about the whole dataset are shown."""
        return self._paths[0]

    @property
    def config(self) -> ConfigFacts:
        """What the column mapping did."""
        return ConfigFacts(unmapped_images=self._unmapped)

    def repeated(self) -> list[list[Place]]:
        """The places of each prompt-and-completion that occurs more than once, in the order of the data."""
        return self._repeated

    @cached_property
    def _repeated(self) -> list[list[Place]]:
        digests = array("Q", map(join_digests, self.prompts, self.completions))
        groups: dict[int, list[Place]] = {}
        for index in _repeated_indices(digests):
            groups.setdefault(digests[index], []).append(self._place(index))
        return list(groups.values())

    def _place(self, index: int) -> Place:
        place = self._places[index]
        return Place(self._paths[bisect_right(self._starts, index) - 1], place >> 1, bool(place & 1))


def _repeated_indices(digests: array[int]) -> Iterator[int]:
    if len(digests) >= _MANY:
        import polars  # a third of a second to load, which small datasets need not pay

        return iter(polars.Series(digests, dtype=polars.UInt64).is_duplicated().arg_true().to_list())
    seen: set[int] = set()
    again: set[int] = set()
    for digest in digests:
        (again if digest in seen else seen).add(digest)
    return (index for index, digest in enumerate(digests) if digest in again) if again else iter(())

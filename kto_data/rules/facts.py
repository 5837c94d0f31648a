"""What rules look at besides a row: one image, the whole dataset, the user's mapping.

Of the whole dataset only hashes are kept: 16 bytes a sample.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kto_data.image import ImageProbe, PixelBudget

_MANY = 1_000_000  # samples from which grouping in Python would take gigabytes


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image reference of a record and the budget it is held to."""

    probe: ImageProbe
    budget: PixelBudget


@dataclass(slots=True)
class ChunkFacts:
    """What one unit of work learnt of one file; cheap to hand to another process."""

    path: str
    digests: array[int] = field(default_factory=lambda: array("Q"))  # 64-bit hash of prompt, images and completion
    places: array[int] = field(default_factory=lambda: array("Q"))  # line number * 2 + label
    num_desirable: int = 0
    formats: dict[str, int] = field(default_factory=dict)  # format -> its first line
    num_unmapped: int = 0  # records whose images the column mapping leaves out
    first_unmapped: int = 0  # the line of the first of them

    def add_sample(self, digest: int, line: int, label: bool) -> None:
        """Note one sample that satisfies the schema."""
        self.digests.append(digest)
        self.places.append(line * 2 + label)
        self.num_desirable += label

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
        self.num_desirable = 0
        self.formats: dict[str, tuple[str, int]] = {}  # format -> where it occurs first
        self._digests: array[int] = array("Q")
        self._places: array[int] = array("Q")
        self._starts: list[int] = []  # index of the first sample of each run of one file
        self._paths: list[str] = []  # the file of each run
        self._unmapped: dict[str, tuple[int, int]] = {}

    def extend(self, chunk: ChunkFacts) -> None:
        """Take in what one chunk learnt."""
        if not self._paths or self._paths[-1] != chunk.path:
            self._starts.append(len(self._places))
            self._paths.append(chunk.path)
        self._digests.extend(chunk.digests)
        self._places.extend(chunk.places)
        self.num_desirable += chunk.num_desirable
        for name, line in chunk.formats.items():
            self.formats.setdefault(name, (chunk.path, line))
        if chunk.num_unmapped:
            first, count = self._unmapped.get(chunk.path, (chunk.first_unmapped, 0))
            self._unmapped[chunk.path] = (first, count + chunk.num_unmapped)

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
        groups: dict[int, list[Place]] = {}
        for index in self._repeated_indices():
            groups.setdefault(self._digests[index], []).append(self._place(index))
        return list(groups.values())

    def _repeated_indices(self) -> Iterator[int]:
        if self.num_samples >= _MANY:
            import polars  # a third of a second to load, which small datasets need not pay

            return iter(polars.Series(self._digests, dtype=polars.UInt64).is_duplicated().arg_true().to_list())
        seen: set[int] = set()
        again: set[int] = set()
        for digest in self._digests:
            (again if digest in seen else seen).add(digest)
        return (index for index, digest in enumerate(self._digests) if digest in again) if again else iter(())

    def _place(self, index: int) -> Place:
        place = self._places[index]
        return Place(self._paths[bisect_right(self._starts, index) - 1], place >> 1, bool(place & 1))

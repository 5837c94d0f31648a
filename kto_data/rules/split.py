"""All samples of one split, in columns: what the rules about the whole dataset, and the survey, read.

Of a sample 28 bytes are kept, besides counts; where they are many, on disk.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

from kto_data.column import Column
from kto_data.repeats import Keys
from kto_data.rules.chunk_facts import ChunkFacts, ImageFile, Shape

OTHER_SOURCES = "(others)"
"""The source of samples whose own comes after `_MANY_SHAPES` shapes: it may be a name that no two samples share."""

_BLOCK = 1 << 16  # samples that are looked at together, so that what is made of them stays small
_MANY_SHAPES = 10_000
_LOW_BYTES = slice(0, None, 8) if sys.byteorder == "little" else slice(7, None, 8)
_LAST_BIT = bytes(byte & 1 for byte in range(256))
_FLIPPED = bytes(1 - (byte & 1) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample stands, and its label."""

    path: str
    line: int
    label: bool
    split: str = "train"

    def seen_from(self, other: Place) -> str:
        """Such as "line 3", with the file where that is another one than that of `other`."""
        return f"line {self.line}" if self.path == other.path else f"{self.path}:{self.line}"


class SplitFacts:
    """The samples of one split in the order of the data. Columns have an entry a sample; look at them after the last
    chunk."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prompts = Column("Q")
        self._completions = Column("Q")
        self._lengths = Column("I")
        self._tokens = Column("I")
        self._signatures = Column("Q")
        self._places = Column("Q")
        self._num_samples = 0
        self.shapes: Counter[Shape] = Counter()
        self.areas: Counter[tuple[bool, int]] = Counter()  # (label, pixels) -> images that were looked at
        self.files: dict[str, ImageFile] = {}  # path on disk -> its content, in the order of lines; empty unless wanted
        self._starts: list[int] = []  # index of the first sample of each run of one file
        self._paths: list[str] = []  # the file of each run

    def __len__(self) -> int:
        return self._num_samples

    def extend(self, chunk: ChunkFacts) -> None:
        """Take in the samples of one chunk, the next ones in the order of the data."""
        if not self._paths or self._paths[-1] != chunk.path:
            self._starts.append(len(self))
            self._paths.append(chunk.path)
        self._num_samples += len(chunk.places)
        self._prompts.extend(chunk.prompts)
        self._completions.extend(chunk.completions)
        self._lengths.extend(chunk.lengths)
        self._tokens.extend(chunk.tokens)
        self._places.extend(chunk.places)
        self._signatures.extend(chunk.signatures)
        self.areas.update(chunk.areas)
        for tried, file in sorted(chunk.files.items(), key=lambda entry: entry[1].line):
            self.files.setdefault(tried, file)
        for shape, count in ((Shape(*entries), count) for entries, count in chunk.shapes.items()):
            is_new = shape not in self.shapes and len(self.shapes) >= _MANY_SHAPES
            self.shapes[shape._replace(source=OTHER_SOURCES) if is_new else shape] += count

    @property
    def prompts(self) -> memoryview[int]:
        """64-bit numbers, see `kto_data.digest`."""
        return self._prompts.view

    @property
    def completions(self) -> memoryview[int]:
        """64-bit numbers, see `kto_data.digest`."""
        return self._completions.view

    @property
    def lengths(self) -> memoryview[int]:
        """Characters of each completion."""
        return self._lengths.view

    @property
    def tokens(self) -> memoryview[int]:
        """Tokens of each sample; 0 where it is not known; empty without a model."""
        return self._tokens.view

    @property
    def signatures(self) -> memoryview[int]:
        """16 numbers a sample, see `kto_data.near`; empty unless wanted."""
        return self._signatures.view

    @property
    def num_desirable(self) -> int:
        """Samples labelled true."""
        return sum(count for shape, count in self.shapes.items() if shape.label)

    @property
    def num_undesirable(self) -> int:
        """Samples labelled false."""
        return len(self) - self.num_desirable

    @property
    def first_path(self) -> str:
        """The first file: where findings about the whole split are shown."""
        return self._paths[0]

    @cached_property
    def labels(self) -> bytes:
        """One byte a sample: 1 where it is desirable, 0 where not."""
        places = self._places.view
        return b"".join(
            places[start : start + _BLOCK].tobytes()[_LOW_BYTES].translate(_LAST_BIT)
            for start in range(0, len(places), _BLOCK)
        )

    @cached_property
    def prompt_keys(self) -> Keys:
        """The prompts, to be counted."""
        return Keys(self.prompts, self.labels)

    @cached_property
    def completion_keys(self) -> Keys:
        """The completions, to be counted."""
        return Keys(self.completions, self.labels)

    @cached_property
    def whole_keys(self) -> Keys:
        """Prompts and completions together, to be counted."""
        return self.prompt_keys.joined_with(self.completion_keys)

    @cached_property
    def lengths_by_label(self) -> tuple[Counter[int], Counter[int]]:
        """Characters of the completion -> samples; desirable ones, then undesirable ones."""
        return self._by_label(self.lengths)

    @property
    def tokens_by_label(self) -> tuple[Counter[int], Counter[int]]:
        """Tokens -> samples; desirable ones, then undesirable ones. Of those that are known."""
        desirable, undesirable = self._by_label(self.tokens)
        for side in (desirable, undesirable):
            side.pop(0, None)
        return desirable, undesirable

    @property
    def images_by_label(self) -> tuple[Counter[int], Counter[int]]:
        """Number of images -> samples; desirable ones, then undesirable ones."""
        sides: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        for shape, count in self.shapes.items():
            sides[not shape.label][shape.num_images] += count
        return sides

    @property
    def areas_by_label(self) -> tuple[Counter[int], Counter[int]]:
        """Pixels -> images of desirable samples, then of undesirable ones; of the images that were looked at."""
        sides: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        for (label, pixels), count in self.areas.items():
            sides[not label][pixels] += count
        return sides

    @property
    def sources(self) -> dict[str, tuple[int, int]]:
        """Source -> (desirable, undesirable) samples, in the order of their first; "" where none is named."""
        found: dict[str, tuple[int, int]] = {}
        for shape, count in self.shapes.items():
            desirable, undesirable = found.get(shape.source, (0, 0))
            found[shape.source] = (desirable + count * shape.label, undesirable + count * (not shape.label))
        return found

    def place(self, index: int) -> Place:
        """Where a sample stands."""
        place = self._places.view[index]
        path = self._paths[bisect_right(self._starts, index) - 1]
        return Place(path, place >> 1, bool(place & 1), self.name)

    def _by_label(self, column: memoryview[int]) -> tuple[Counter[int], Counter[int]]:
        return Counter(compress(column, self.labels)), Counter(compress(column, self.labels.translate(_FLIPPED)))

"""What one unit of work learnt of one file, in columns: a part of what the rules about the whole dataset look at."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kto_data.chunk import Endings
from kto_data.digest import SampleDigest
from kto_data.paths import TRAIN


class Shape(NamedTuple):
    """What is counted of samples, rather than kept of each."""

    label: bool
    num_messages: int
    num_images: int
    source: str  # empty where the record names none


class ImageFile(NamedTuple):
    """What is in an image file, and the first record that names it."""

    digest: int  # of its bytes
    given: str  # its path as the record has it
    line: int
    path: str  # of the record's file

    def seen_from(self, other: ImageFile) -> str:
        """Such as "line 3", with the file where that is another one than that of `other`."""
        return f"line {self.line}" if self.path == other.path else f"{self.path}:{self.line}"


@dataclass(slots=True)
class ChunkFacts:
    """What one unit of work learnt of one file; cheap to hand to another process.

    The first four columns have an entry a sample, 28 bytes together: extend them alike.
    """

    path: str
    split: str = TRAIN
    prompts: array[int] = field(default_factory=lambda: array("Q"))  # 64-bit numbers, see `kto_data.digest`
    completions: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))  # line number * 2 + label
    lengths: array[int] = field(default_factory=lambda: array("I"))  # of completions, in characters
    tokens: array[int] = field(default_factory=lambda: array("I"))  # of samples; 0: not known; empty without a model
    shapes: Counter[tuple[bool, int, int, str]] = field(default_factory=Counter)  # entries as of `Shape`
    areas: Counter[tuple[bool, int]] = field(default_factory=Counter)  # (label, rounded pixels) -> images
    signatures: array[int] = field(default_factory=lambda: array("Q"))  # 16 a sample (`kto_data.near`); or empty
    files: dict[str, ImageFile] = field(default_factory=dict)  # path on disk -> its content; empty unless wanted
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

    def add_samples(
        self,
        prompts: Sequence[int],
        completions: Sequence[int],
        lines: Sequence[int],
        lengths: Sequence[int],
        shapes: Sequence[tuple[bool, int, int, str]],
    ) -> None:
        """Note many samples at once; each shape has the entries of a `Shape`."""
        self.prompts.extend(prompts)
        self.completions.extend(completions)
        self.places.extend([line * 2 + shape[0] for line, shape in zip(lines, shapes, strict=True)])
        self.lengths.extend(lengths)
        self.shapes.update(shapes)

    def add_image(self, label: bool, pixels: int) -> None:
        """Note the size of one image of a sample: the upright image, before any pixel budget."""
        self.areas[label, rounded_area(pixels)] += 1

    def add_file(self, tried: str, file: ImageFile) -> None:
        """Note what is in an image file: `tried` is its path on disk."""
        self.files.setdefault(tried, file)

    def add_format(self, name: str, line: int) -> None:
        """Note the format of a record."""
        self.formats.setdefault(name, line)

    def add_unmapped(self, line: int) -> None:
        """Note a record whose images the column mapping leaves out."""
        self.first_unmapped = self.first_unmapped or line
        self.num_unmapped += 1


def rounded_area(pixels: int) -> int:
    """The area with all but its first three digits zero: so that few different ones are counted."""
    return pixels if pixels < 1000 else pixels - pixels % 10 ** (len(str(pixels)) - 3)

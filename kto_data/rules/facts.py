"""What rules look at besides a row: one image, the whole dataset, the user's mapping.

Of the whole dataset only numbers are kept: 28 bytes a sample, on disk where they are many, and counts.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from kto_data.chunk import Endings
from kto_data.image import BOMB_PIXELS, ImageProbe, PixelBudget
from kto_data.paths import TRAIN
from kto_data.repeats import Keys, chained
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.rules.split import Place, SplitFacts

if TYPE_CHECKING:
    from kto_data.training import TrainPlan

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


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that nobody could work on."""

    num_rows: int
    place: str  # what the work was to give, such as a shard; empty where it has no name


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """What the user's column mapping does to the data, and the training that it is meant for."""

    unmapped_images: dict[str, tuple[int, int]]  # path -> (first line, number of records)
    plan: TrainPlan | None = None  # of the training, where its config is given
    num_desirable: int = 0  # of the split that is trained
    num_undesirable: int = 0
    has_eval_split: bool = False
    budget: PixelBudget = field(default_factory=PixelBudget)
    unused_suppressions: tuple[tuple[str, str], ...] = ()  # (where it is written, what it is about)


class DatasetFacts:
    """All samples together: fed chunk by chunk in the order of the data, then read by the rules.

    `batch_size`: samples a device, of the training to come, where that is known.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        self.batch_size = batch_size
        self.splits: dict[str, SplitFacts] = {}  # in the order of their first samples
        self.formats: dict[str, tuple[str, int]] = {}  # format -> where it occurs first
        self.endings: dict[str, Endings] = {}  # file -> how its lines end
        self._first_path = ""
        self._unmapped: dict[str, tuple[int, int]] = {}

    def extend(self, chunk: ChunkFacts) -> None:
        """Take in what one chunk learnt."""
        self._first_path = self._first_path or chunk.path
        if chunk.places:
            if chunk.split not in self.splits:
                self.splits[chunk.split] = SplitFacts(chunk.split)
            self.splits[chunk.split].extend(chunk)
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
    def trained(self) -> SplitFacts | None:
        """The split whose balance, order and shortcuts matter: train, or the first one where none is called so.

        None where no sample could be read.
        """
        return self.splits.get(TRAIN) or next(iter(self.splits.values()), None)

    @property
    def num_desirable(self) -> int:
        """Samples labelled true, of the split that is trained."""
        return self.trained.num_desirable if self.trained else 0

    @property
    def num_undesirable(self) -> int:
        """Samples labelled false, of the split that is trained."""
        return self.trained.num_undesirable if self.trained else 0

    @property
    def num_samples(self) -> int:
        """Samples that satisfy the schema, of all splits."""
        return sum(map(len, self.splits.values()))

    @property
    def first_path(self) -> str:
        """The first file: where findings about the whole dataset are shown."""
        return self._first_path

    @property
    def config(self) -> ConfigFacts:
        """What the column mapping did."""
        return ConfigFacts(unmapped_images=self._unmapped)

    @cached_property
    def whole_keys(self) -> Keys:
        """Prompts and completions together of all samples, split after split, to be counted."""
        return chained([split.whole_keys for split in self.splits.values()])

    def place(self, index: int) -> Place:
        """Where an entry of `whole_keys` stands."""
        owner = bisect_right(self._starts, index) - 1
        return list(self.splits.values())[owner].place(index - self._starts[owner])

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(map(len, self.splits.values()), initial=0))

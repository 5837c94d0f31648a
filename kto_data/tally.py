"""What is counted while a cache is made: rows by stage, label and source, and a few numbers for each kept row.

Counts of a chunk are made where the chunk is worked on and merged in source order, so that they do not depend on the
number of jobs. A kept row costs 41 bytes, whatever its length, and 8 more for each of its images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kto_data.digest import message_text, record_digest
from kto_data.encode import Encoded
from kto_data.manifest import LabelCounts, SplitCounts
from kto_data.record import Record
from kto_data.rules.split import OTHER_SOURCES

ROW_DTYPE = np.dtype(
    [
        ("label", "?"),
        ("num_prompt", "<i4"),  # ids, image tokens included
        ("num_completion", "<i4"),  # ids
        ("num_image_tokens", "<i4"),
        ("num_images", "<i4"),
        ("pixels", "<i8"),  # over all images, within the pixel budget
        ("prompt_key", "<u8"),  # hash of the prompt's messages and image paths
        ("completion_key", "<u8"),  # hash of the completion's text
    ]
)
IMAGE_KEY_DTYPE = np.dtype("<u8")
"""The first 64 bits of the SHA-256 of an image file."""

KEPT = "kept"
"""What became of a row that was not dropped; of the others, it is the code of a rule."""

_MANY_SOURCES = 10_000  # rows of further ones are counted under `OTHER_SOURCES`
_MAX_TEXTS = 100  # repeated completions of a chunk whose text is kept, to show it
_TEXT_CHARS = 60  # characters kept of each

UNREADABLE = "unreadable"
"""The label of a row whose label could not be read."""


def label_name(label: bool | None) -> str:
    """The key of a label in counts: "true", "false" or `UNREADABLE`."""
    return UNREADABLE if label is None else str(label).lower()


@dataclass(slots=True)
class Tally:
    """Counts of one chunk, or of all chunks of a split once merged."""

    read: Counter[str] = field(default_factory=Counter)  # label -> rows
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reason, label) -> rows
    truncated: Counter[str] = field(default_factory=Counter)  # label -> rows
    sources: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)  # source -> (fate, label) -> rows
    completions: dict[int, str] = field(default_factory=dict)  # completion_key -> beginning of its text
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, ROW_DTYPE))  # one ROW_DTYPE entry a kept row
    image_keys: np.ndarray = field(default_factory=lambda: np.empty(0, IMAGE_KEY_DTYPE))  # one an image of a kept row

    def merge(self, others: Iterable[Tally]) -> Tally:
        """This tally with those of later chunks added."""
        rows, image_keys = [self.rows], [self.image_keys]
        for other in others:
            self.add_counts(other)
            rows.append(other.rows)
            image_keys.append(other.image_keys)
        self.rows, self.image_keys = np.concatenate(rows), np.concatenate(image_keys)
        return self

    def add_counts(self, other: Tally) -> None:
        """Add all of a later chunk but its columns."""
        self.read += other.read
        self.dropped += other.dropped
        self.truncated += other.truncated
        for source, fates in other.sources.items():
            self.of_source(source).update(fates)
        for key, text in other.completions.items():
            self.completions.setdefault(key, text)

    def of_source(self, source: str) -> Counter[tuple[str, str]]:
        """The counts of a source, to be added to: (`KEPT` or the reason of a drop, label) -> rows."""
        if source not in self.sources and len(self.sources) >= _MANY_SOURCES:
            source = OTHER_SOURCES
        return self.sources.setdefault(source, Counter())

    def counts(self) -> SplitCounts:
        """The counts as the manifest has them. Asserts that no row is lost."""
        kept = {name: int(np.sum(self.rows["label"] == value)) for name, value in (("true", True), ("false", False))}
        dropped_by_label: dict[str, LabelCounts] = {}
        for (reason, label), rows in sorted(self.dropped.items()):
            dropped_by_label.setdefault(reason, {})[label] = rows
        dropped = {reason: sum(labels.values()) for reason, labels in dropped_by_label.items()}
        assert sum(self.read.values()) == len(self.rows) + sum(dropped.values()), "read = kept + dropped"
        return SplitCounts(
            read=sum(self.read.values()),
            kept=len(self.rows),
            dropped=dropped,
            read_by_label=dict(sorted(self.read.items())),
            kept_by_label=kept,
            dropped_by_label=dropped_by_label,
            truncated_by_label=dict(sorted(self.truncated.items())),
        )


class TallyBuilder:
    """Counts the rows of one chunk as they come."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._rows: list[tuple[object, ...]] = []
        self._image_keys: list[int] = []
        self._repeats: Counter[int] = Counter()
        self._texts: dict[int, str] = {}

    def read(self, label: bool | None, rows: int = 1) -> None:
        """Count rows read."""
        self._tally.read[label_name(label)] += rows

    def drop(self, reason: str, label: bool | None, source: str = "") -> None:
        """Count a row dropped for `reason`, a rule code."""
        self._tally.dropped[reason, label_name(label)] += 1
        self._tally.of_source(source)[reason, label_name(label)] += 1

    def keep(self, record: Record, encoded: Encoded) -> None:
        """Count a kept row."""
        label = label_name(record.label)
        if encoded.num_cut:
            self._tally.truncated[label] += 1
        self._tally.of_source(record.source or "")[KEPT, label] += 1
        completion = message_text(record.completion)
        prompt_key, completion_key = record_digest(record)
        self._repeats[completion_key] += 1
        self._texts.setdefault(completion_key, completion[:_TEXT_CHARS])
        self._image_keys += [int(image.sha256[:16], 16) for image in encoded.images]
        self._rows.append(
            (
                record.label,
                len(encoded.prompt_ids),
                len(encoded.completion_ids),
                encoded.num_image_tokens,
                len(encoded.images),
                sum(image.width * image.height for image in encoded.images),
                prompt_key,
                completion_key,
            )
        )

    def finish(self) -> Tally:
        """The tally of all that was counted."""
        self._tally.rows = np.array(self._rows, ROW_DTYPE)
        self._tally.image_keys = np.array(self._image_keys, IMAGE_KEY_DTYPE)
        self._tally.completions = {key: self._texts[key] for key, _ in self._repeats.most_common(_MAX_TEXTS)}
        return self._tally

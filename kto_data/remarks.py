"""What in a survey is worth a look: plain sentences for people, besides what the rules find.

A remark is no finding: it has no code, fails nothing, and may be as the author of the data wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from kto_data.distribution import Distribution, Separation
from kto_data.pairing import Microbatches
from kto_data.survey import SplitSurvey, Survey

SHORTCUT_AUC = 0.7
"""Above it a property alone tells enough of the label to be worth a look."""
_LARGE_SHARE = 0.05  # of samples that share their completion with another
_MANY_TIMES = 5  # that a completion must occur to be spoken of
_ONE_LABEL_SHARE = 0.1  # of batches of one label, beyond what shuffled data has


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing worth a look. `kind` is for machines and stays; `text` is for people."""

    kind: str
    split: str
    text: str


def remarks(survey: Survey) -> tuple[Remark, ...]:
    """All that is worth a look, split by split."""
    return tuple(
        Remark(kind=kind, split=split.name, text=text)
        for split in survey.splits
        for kind, text in (*_shortcuts(split), *_repeats(split), *_batches(split))
    )


def _shortcuts(split: SplitSurvey) -> Iterator[tuple[str, str]]:
    for shortcut in split.shortcuts:
        if shortcut.separation.exceeds(SHORTCUT_AUC):
            yield shortcut_remark(shortcut.property, shortcut.separation, _HOW[shortcut.property](split))


def shortcut_remark(name: str, separation: Separation, how: str) -> tuple[str, str]:
    """Kind and text of the remark that the property `name` gives the label away; `how`: what it is like."""
    told = "tells the label" if separation.strength >= 0.995 else "tells much of the label"
    return f"shortcut-{name.replace(' ', '-')}", f"the {name} alone {told} (AUC {separation.strength:.2f}): {how}"


def _by_length(split: SplitSurvey) -> str:
    return length_words(split.completion_length, "characters")


def length_words(lengths: Distribution, unit: str) -> str:
    """How the lengths of completions differ; both labels have some."""
    desirable, undesirable = lengths.desirable, lengths.undesirable
    assert desirable is not None
    assert undesirable is not None
    return (
        f"half of the desirable completions are longer than {desirable.p50:,} {unit}, half of the undesirable ones "
        f"than {undesirable.p50:,}"
    )


def _by_images(split: SplitSurvey) -> str:
    means = [
        sum(entry.value * number for entry, number in zip(split.images, numbers, strict=True)) / max(1, sum(numbers))
        for numbers in (
            [entry.labels.desirable for entry in split.images],
            [entry.labels.undesirable for entry in split.images],
        )
    ]
    return f"{means[0]:.1f} images a desirable sample, {means[1]:.1f} an undesirable one"


def _by_area(split: SplitSurvey) -> str:
    assert split.pixel_area is not None
    desirable, undesirable = split.pixel_area.desirable, split.pixel_area.undesirable
    assert desirable is not None
    assert undesirable is not None
    return f"images of desirable samples have a median of {desirable.p50:,} pixels, of others {undesirable.p50:,}"


def _by_source(split: SplitSurvey) -> str:
    labels = [(entry.labels.desirable, entry.labels.undesirable) for entry in split.sources]
    return source_words(labels, split.num_sources)


def source_words(largest: Sequence[tuple[int, int]], num_sources: int) -> str:
    """How sources differ; of the largest ones their (desirable, undesirable) samples."""
    num_one_label = sum(not (desirable and undesirable) for desirable, undesirable in largest)
    which = f"{len(largest):,} sources" if len(largest) == num_sources else f"{len(largest):,} largest sources"
    if num_one_label == len(largest):
        return f"each of the {which} has one label only"
    return f"{num_one_label:,} of the {which} have one label only, and others lean to one"


_HOW = {
    "completion length": _by_length,
    "number of images": _by_images,
    "pixel area": _by_area,
    "source": _by_source,
}


def _repeats(split: SplitSurvey) -> Iterator[tuple[str, str]]:
    top = next(iter(split.top_completions), None)
    share = split.num_repeated_completions / split.labels.total
    if top is None or top.labels.total < _MANY_TIMES or share <= _LARGE_SHARE:
        return
    sides = f"{top.labels.desirable:,} true, {top.labels.undesirable:,} false"
    yield (
        "repeated-completions",
        f"answers repeat: {split.num_repeated_completions:,} of {split.labels.total:,} samples ({share:.0%}) have a "
        f"completion that another one has too, the most frequent {top.labels.total:,} times ({sides}; first at "
        f"{top.path}:{top.line})",
    )


def _batches(split: SplitSurvey) -> Iterator[tuple[str, str]]:
    if split.microbatches is not None and split.weights.balance is not None:  # of one label all batches are
        yield from batch_remarks(split.microbatches)


def batch_remarks(batches: Microbatches) -> Iterator[tuple[str, str]]:
    """Kind and text of what is worth a look of the batches of data with both labels."""
    share, expected = batches.num_one_label_as_written / batches.number, batches.share_one_label_shuffled
    if share > expected + max(_ONE_LABEL_SHARE, 3 * sqrt(expected * (1 - expected) / batches.number)):
        yield (
            "one-label-batches",
            f"{batches.num_one_label_as_written:,} of {batches.number:,} batches of {batches.batch_size} would have "
            f"one label only, taken in the order of the data; shuffled, about {round(expected * batches.number):,}",
        )

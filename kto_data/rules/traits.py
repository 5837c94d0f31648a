"""What a split is like as a whole, where both a rule and the survey need it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log

from kto_data.distribution import Separation, group_separation, separation
from kto_data.pairing import fewest_self_pairs, group_sizes
from kto_data.repeats import most_common
from kto_data.rules.split import SplitFacts

SHUFFLED_RUN_CHANCE = 1e-6
"""How improbable a run of one label must be in shuffled data to be taken for a sign of order."""
LEAST_RUN = 32
"""A shorter run matters to nobody: it fills no step of training (32 samples a step in the paper and in HALOs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """How well one property alone tells the labels apart.

    `property` is "completion length", "number of images", "pixel area" or "source".
    """

    property: str
    separation: Separation


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRun:
    """Neighbouring samples of one label, from the sample at index `start` on."""

    label: bool
    start: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOrder:
    """The runs of one label in the order of the data."""

    longest: LabelRun
    worst: LabelRun | None  # the longest of those that are no chance
    num_runs: int
    bounds: tuple[int, int]  # of (undesirable, desirable) runs: as long as this they are none, see `improbable_run`
    num_in_long_runs: int  # samples that stand in runs as long as that


@dataclass(frozen=True, slots=True, kw_only=True)
class TopCompletion:
    """A completion that several samples have, and the first of them."""

    index: int
    num_desirable: int
    num_undesirable: int


def shortcuts(split: SplitFacts) -> tuple[Shortcut, ...]:
    """The properties that differ between samples, the one that tells most of the label first."""
    found = {
        "completion length": separation(*split.lengths_by_label),
        "number of images": separation(*split.images_by_label),
        "pixel area": separation(*split.areas_by_label),
        "source": group_separation(split.sources.values()) if len(split.sources) > 1 else None,
    }
    told = [Shortcut(property=name, separation=value) for name, value in found.items() if value and value.sigma]
    return tuple(sorted(told, key=lambda entry: -entry.separation.strength))


def label_order(split: SplitFacts) -> LabelOrder:
    """The runs of labels of a split that has samples."""
    labels = split.labels
    bounds = (
        improbable_run(split.num_undesirable, split.num_desirable),
        improbable_run(split.num_desirable, split.num_undesirable),
    )
    starts = _run_starts(labels)
    longest: tuple[int, int] = (0, 0)  # (length, index)
    worst: tuple[int, int] = (0, 0)
    num_in_long_runs = 0
    for start, end in pairwise(starts):
        length = end - start
        if length > longest[0]:
            longest = (length, start)
        if length >= bounds[labels[start]]:
            num_in_long_runs += length
            worst = max(worst, (length, start), key=lambda run: run[0])
    runs = [LabelRun(label=bool(labels[start]), start=start, num_samples=length) for length, start in (longest, worst)]
    return LabelOrder(
        longest=runs[0],
        worst=runs[1] if num_in_long_runs else None,
        num_runs=len(starts) - 1,
        bounds=bounds,
        num_in_long_runs=num_in_long_runs,
    )


def improbable_run(num_this: int, num_other: int) -> int:
    """The least length of a run of a label that shuffled data has with a probability under `SHUFFLED_RUN_CHANCE`.

    Of all orders of n samples, n_1 of this label and n_0 of the other, the expected number of runs of at least k of
    this label is

        E(k) = (n_0 + 1) * n_1 (n_1 - 1) ... (n_1 - k + 1) / (n (n - 1) ... (n - k + 1))

    A run begins at the first place or behind one of the other label: the chance that the next k are all of this label
    is the quotient in the first case, and in the second, summed over n - k places, n_0 times it. By Markov's
    inequality the probability of one such run or more is at most E(k). At least `LEAST_RUN`; longer than the data
    where no run is improbable enough.
    """
    total = num_this + num_other
    expected = log(num_other + 1)
    for length in range(num_this):
        if expected < log(SHUFFLED_RUN_CHANCE) and length >= LEAST_RUN:
            return length
        expected += log((num_this - length) / (total - length))
    return max(LEAST_RUN, num_this) if expected < log(SHUFFLED_RUN_CHANCE) else total + 1


def num_self_pairs(split: SplitFacts, batch_size: int) -> int:
    """How many samples no grouping into batches spares from being paired with their own completion."""
    if batch_size < 2 or len(split) < 2:
        return len(split)
    commonest = [count for _, count in most_common(split.completions, 2)]
    others = len(split) - sum(commonest)
    commonest += [1] * min(2 - len(commonest), others)  # those that do not repeat
    return fewest_self_pairs(commonest, len(split), group_sizes(len(split), batch_size, 1))


def top_completions(split: SplitFacts, number: int) -> tuple[TopCompletion, ...]:
    """The most frequent completions that several samples have, the most frequent first."""
    counts = most_common(split.completions, number)
    indices: dict[int, list[int]] = {value: [] for value, _ in counts}
    if counts:
        for index, value in enumerate(split.completions):
            if value in indices:
                indices[value].append(index)
    found = []
    for value, count in counts:
        num_desirable = sum(split.labels[index] for index in indices[value])
        first = indices[value][0]
        found.append(TopCompletion(index=first, num_desirable=num_desirable, num_undesirable=count - num_desirable))
    return tuple(found)


def _run_starts(labels: bytes) -> list[int]:
    """The index of the first sample of each run, and the number of samples."""
    # Neighbours compared all at once: as numbers of n bytes, the labels against themselves moved on by one.
    ahead = int.from_bytes(labels, "big")
    changes = (ahead ^ (ahead >> 8)).to_bytes(len(labels), "big")
    starts = [0]
    index = changes.find(1, 1)
    while index >= 0:
        starts.append(index)
        index = changes.find(1, index + 1)
    return [*starts, len(labels)]

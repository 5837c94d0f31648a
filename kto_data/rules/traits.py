"""What a split is like as a whole, where both a rule and the survey need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from kto_data.distribution import Separation, group_separation, separation
from kto_data.pairing import least_self_pairs
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
    long_runs = [run for label in (False, True) for run in _runs_from(labels, label, bounds[label])]
    worst = min(long_runs, key=lambda run: (-run.num_samples, run.start), default=None)
    return LabelOrder(
        longest=_longest_run(labels),
        worst=worst,
        num_runs=1 + labels.count(b"\0\1") + labels.count(b"\1\0"),
        bounds=bounds,
        num_in_long_runs=sum(run.num_samples for run in long_runs),
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
    return least_self_pairs(split.completion_keys.commonest, len(split), batch_size)


def _runs_from(labels: bytes, label: bool, least: int) -> Iterator[LabelRun]:
    """The runs of a label that are at least so long."""
    # Searched for as a string: a million labels take a millisecond.
    wanted, other = bytes([label]) * least, bytes([not label])
    start = labels.find(wanted)
    while start >= 0:
        end = labels.find(other, start)
        end = len(labels) if end < 0 else end
        yield LabelRun(label=label, start=start, num_samples=end - start)
        start = labels.find(wanted, end)


def _longest_run(labels: bytes) -> LabelRun:
    found = []
    for label in (False, True):
        low, high = 0, len(labels)  # there is a run of `low`, and none longer than `high`
        while low < high:
            middle = min((low + high + 1) // 2, 2 * low + 1)
            if bytes([label]) * middle in labels:
                low = middle
            else:
                high = middle - 1
        if low:
            found.append(LabelRun(label=label, start=labels.find(bytes([label]) * low), num_samples=low))
    return min(found, key=lambda run: (-run.num_samples, run.start))

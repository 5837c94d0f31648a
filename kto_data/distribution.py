"""What a number of each sample is like under either label: quantiles, bins, and how well it tells the labels apart.

Values come as counts (value -> number of samples), so that a million samples cost no more than their distinct values.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

_STEPS = (10, 15, 20, 30, 50, 70)  # edges of bins within a decade, times ten: about as wide on a logarithmic scale
EDGES = (0, 1, *(step * 10**power // 10 for power in range(1, 13) for step in _STEPS))
"""Where bins begin and end."""
_SEED = 2402_01306


class Quantiles(NamedTuple):
    """Values that occur: the least, those that 10, 50 and 90 percent of samples do not exceed, and the greatest."""

    min: int
    p10: int
    p50: int
    p90: int
    max: int


class Bin(NamedTuple):
    """Samples whose value is `low` or more and less than `high`."""

    low: int
    high: int
    desirable: int
    undesirable: int

    @property
    def words(self) -> str:
        """The values that belong to it: "1,000 to 1,499", or the one that does."""
        return f"{self.low:,}" if self.high == self.low + 1 else f"{self.low:,} to {self.high - 1:,}"


class Separation(NamedTuple):
    """How well a property alone tells the labels apart.

    `auc` is the probability that of a desirable and an undesirable sample drawn at random the desirable one has the
    higher value, ties counting half: 0.5 is not at all, 1 and 0 are fully. `sigma` is the standard deviation that it
    would have if the property had nothing to do with the label.
    """

    auc: float
    sigma: float

    @property
    def strength(self) -> float:
        """The AUC whichever way the property points, 0.5 to 1."""
        return max(self.auc, 1 - self.auc)

    def exceeds(self, auc: float) -> bool:
        """Whether the labels are told apart better than `auc` says, and too well for chance (three sigma)."""
        return self.strength > auc and self.strength - 0.5 > 3 * self.sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One property of the samples by label. None where a label has no samples."""

    desirable: Quantiles | None
    undesirable: Quantiles | None
    bins: tuple[Bin, ...]  # all from the least to the greatest value, empty ones too
    separation: Separation | None


def distribution(desirable: Mapping[int, int], undesirable: Mapping[int, int]) -> Distribution:
    """The distribution of a property from its counts under either label."""
    return Distribution(
        desirable=_quantiles(desirable),
        undesirable=_quantiles(undesirable),
        bins=_bins(desirable, undesirable),
        separation=separation(desirable, undesirable),
    )


def separation(desirable: Mapping[int, int], undesirable: Mapping[int, int]) -> Separation | None:
    """The AUC of a property, from its counts under either label; None where a label has no samples.

    AUC = (#{x > y} + #{x = y} / 2) / (n_D n_U) over all pairs of a desirable x and an undesirable y: the Mann-Whitney
    statistic as a share of the pairs (Hanley and McNeil, "The meaning and use of the area under a receiver operating
    characteristic curve", Radiology 143, 1982). Its variance where the property says nothing, n = n_D + n_U and t the
    number of samples of each value (Lehmann, "Nonparametrics", 1975, section 1.4):

        sigma^2 = (n + 1 - sum(t^3 - t) / (n (n - 1))) / (12 n_D n_U)
    """
    num_desirable, num_undesirable = sum(desirable.values()), sum(undesirable.values())
    if not num_desirable or not num_undesirable:
        return None
    doubled = below = ties = 0  # `doubled`: pairs won by the desirable side, times two, so that halves stay whole
    for value in sorted(desirable.keys() | undesirable.keys()):
        here, there = desirable.get(value, 0), undesirable.get(value, 0)
        doubled += here * (2 * below + there)
        below += there
        ties += (here + there) ** 3 - (here + there)
    total, pairs = num_desirable + num_undesirable, num_desirable * num_undesirable
    variance = (total + 1 - ties / (total * (total - 1))) / (12 * pairs)
    return Separation(doubled / (2 * pairs), sqrt(max(0.0, variance)))


def group_separation(groups: Iterable[tuple[int, int]]) -> Separation | None:
    """How well the group that a sample belongs to tells its label; groups are (desirable, undesirable) samples.

    A group is worth the share of desirable samples in it. Taken from the samples that are then judged, that share would
    know their labels: a thousand groups of one sample would seem to tell everything. So the samples are halved at
    random, and each half is judged by the shares of the other (cross-fitting; a group that the other half lacks is
    worth the share of all). None where a label has no samples.
    """
    toss = random.Random(_SEED)
    halves: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for desirable, undesirable in groups:
        # The set bits of n random ones: how many of n samples a fair coin puts into the first half.
        first = (toss.getrandbits(desirable).bit_count(), toss.getrandbits(undesirable).bit_count())
        halves[0].append(first)
        halves[1].append((desirable - first[0], undesirable - first[1]))
    judged = [found for half, other in (halves, halves[::-1]) if (found := _judged_by(half, other)) is not None]
    if not judged:
        return None
    num_desirable = sum(desirable for half in halves for desirable, _ in half)
    num_undesirable = sum(undesirable for half in halves for _, undesirable in half)
    variance = (num_desirable + num_undesirable + 1) / (12 * num_desirable * num_undesirable)
    return Separation(sum(found.auc for found in judged) / len(judged), sqrt(variance))


def _judged_by(half: list[tuple[int, int]], other: list[tuple[int, int]]) -> Separation | None:
    total = sum(map(sum, other))
    overall = sum(desirable for desirable, _ in other) / total if total else 0.5
    desirable: dict[int, int] = {}
    undesirable: dict[int, int] = {}
    for (num_desirable, num_undesirable), known in zip(half, other, strict=True):
        share = (known[0] + overall) / (sum(known) + 1)
        value = round(share * 1_000_000_000)
        desirable[value] = desirable.get(value, 0) + num_desirable
        undesirable[value] = undesirable.get(value, 0) + num_undesirable
    return separation(desirable, undesirable)


def _quantiles(counts: Mapping[int, int]) -> Quantiles | None:
    total = sum(counts.values())
    if not total:
        return None
    values = sorted(value for value, count in counts.items() if count)
    reached, so_far = [], 0
    for value in values:
        so_far += counts[value]
        reached.append(so_far)
    p10, p50, p90 = (values[bisect_right(reached, (total - 1) * percent // 100)] for percent in (10, 50, 90))
    return Quantiles(values[0], p10, p50, p90, values[-1])


def _bins(desirable: Mapping[int, int], undesirable: Mapping[int, int]) -> tuple[Bin, ...]:
    counts = [[0, 0] for _ in EDGES]
    for side, values in enumerate((desirable, undesirable)):
        for value, count in values.items():
            counts[bisect_right(EDGES, value) - 1][side] += count
    filled = [index for index, pair in enumerate(counts) if any(pair)]
    if not filled:
        return ()
    bins = [Bin(low, high, *pair) for (low, high), pair in zip(pairwise(EDGES), counts[:-1], strict=True)]
    return tuple(bins[filled[0] : filled[-1] + 1])

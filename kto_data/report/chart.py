"""Where the bars of a histogram stand: numbers for a template to draw, in percent across and pixels down.

    Distribution, limits ─▶ Histogram

Percent across, so that one drawing fits every screen and its letters keep their size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from kto_data.distribution import EDGES, Bin, Distribution

HALF_HEIGHT = 64  # pixels of the tallest bar; desirable samples stand up from the middle, the others hang from it
_MOST_TICKS = 6
_MOST_ADDED_BINS = 8  # empty ones, for a limit beyond the data to be drawn in


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A number that the user set, or that rules take where none is set."""

    value: int
    name: str  # such as "--max-length"
    note: str = ""  # what the rules found about it


@dataclass(frozen=True, slots=True)
class Bar:
    """The samples of both labels in one bin. `x` and `width` in percent, `up` and `down` in pixels."""

    x: float
    width: float
    up: float
    down: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A number under the axis, at `x` percent."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A limit. Drawn at `x` percent; None where it is too far from the data to be drawn with it."""

    limit: Limit
    x: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """One drawing, and the numbers it was made from."""

    title: str
    unit: str
    distribution: Distribution
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    tallest: float  # the share of its label's samples that the tallest bar is


def histogram(title: str, unit: str, distribution: Distribution, limits: Sequence[Limit] = ()) -> Histogram:
    """The drawing of a distribution; the height of a bar is its share of the samples of its label, so that the shapes
    can be compared where one label is rare."""
    bins = _with_room(distribution.bins, limits)
    totals = [max(1, sum(side)) for side in zip(*(entry[2:] for entry in bins), strict=True)]
    shares = [(entry.desirable / totals[0], entry.undesirable / totals[1]) for entry in bins]
    tallest = max(map(max, shares))
    width = 100 / len(bins)
    bars = tuple(
        Bar(round((index + 0.1) * width, 2), round(0.8 * width, 2), _height(up, tallest), _height(down, tallest))
        for index, (up, down) in enumerate(shares)
        if up or down
    )
    step = -(-len(bins) // _MOST_TICKS)
    ticks = tuple(Tick(round(i * width, 2), compact(bins[i].low)) for i in range(0, len(bins), step))
    marks = tuple(Mark(limit, _place(limit.value, bins)) for limit in limits)
    return Histogram(
        title=title, unit=unit, distribution=distribution, bars=bars, ticks=ticks, marks=marks, tallest=tallest
    )


def compact(number: int) -> str:
    """A round number in few letters: "700", "15k", "1.5M"."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def _height(share: float, tallest: float) -> float:
    return round(max(HALF_HEIGHT * share / tallest, 1.5), 1) if share else 0  # the least that is not nothing is seen


def _with_room(bins: Sequence[Bin], limits: Sequence[Limit]) -> list[Bin]:
    first, last = (bisect_right(EDGES, entry.low) - 1 for entry in (bins[0], bins[-1]))
    for limit in limits:
        index = min(bisect_right(EDGES, limit.value), len(EDGES) - 1) - 1
        if first - _MOST_ADDED_BINS <= index < first:
            first = index
        elif last < index <= last + _MOST_ADDED_BINS:
            last = index
    filled = {entry.low: entry for entry in bins}
    return [filled.get(low, Bin(low, high, 0, 0)) for low, high in pairwise(EDGES[first : last + 2])]


def _place(value: int, bins: Sequence[Bin]) -> float | None:
    for index, entry in enumerate(bins):
        if entry.low <= value < entry.high:
            within = log(value / entry.low) / log(entry.high / entry.low) if entry.low else 0
            return round(100 * (index + within) / len(bins), 2)
    return None

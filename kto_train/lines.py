"""Where the curves of a training stand: numbers for a template to draw.

    points (step, value) ─▶ Panel

A curve is drawn in a box of `WIDTH` by `HEIGHT` units that a browser stretches to the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

WIDTH, HEIGHT = 600, 150
_MOST_POINTS = 300  # of a curve: of a longer one, means over runs of points are drawn

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: the `points` attribute of an SVG polyline, and the last value."""

    name: str
    points: str
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing, and the range it shows."""

    title: str
    lines: tuple[Line, ...]
    low: float
    high: float
    first_step: int
    last_step: int
    is_mean: bool  # whether points are means over several logs
    zero: float | None  # where the value 0 is drawn; None where it is outside


def panel(title: str, curves: Mapping[str, Points]) -> Panel:
    """The drawing of some curves over one range of steps and values. No curve may be empty."""
    drawn = {name: _thinned(points) for name, points in curves.items()}
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)

    def height(value: float) -> float:
        return round(HEIGHT / 2 if high == low else HEIGHT * (high - value) / (high - low), 1)

    def across(step: float) -> float:
        return round(WIDTH / 2 if last == first else WIDTH * (step - first) / (last - first), 1)

    return Panel(
        title=title,
        lines=tuple(
            Line(name, " ".join(f"{across(step)},{height(value)}" for step, value in points), curves[name][-1][1])
            for name, points in drawn.items()
        ),
        low=low,
        high=high,
        first_step=min(points[0][0] for points in curves.values()),
        last_step=max(points[-1][0] for points in curves.values()),
        is_mean=any(len(points) > _MOST_POINTS for points in curves.values()),
        zero=height(0) if low <= 0 <= high else None,
    )


def _thinned(points: Points) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST_POINTS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(step for step, _ in run), fmean(value for _, value in run)) for run in runs]

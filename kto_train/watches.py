"""What in the numbers of a training is worth a warning: readings in, alarms out.

    log ─▶ Reading ─▶ watches ─▶ Alarm

A reading is one log of TRL's: means over the steps since the last one. A watch looks at the latest readings, oldest
first, and says what it sees, of what it is the likely sign, and what to look at. It knows nothing of files and rows.

Rewards are as TRL logs them: beta times the log-ratio to the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

HISTORY = 30
"""Readings that a watch is shown at most."""

_WINDOW = 5  # readings whose median is one point of a trend
_WINDOWS = 5  # such points that must all go one way
_SPIKE_HISTORY = 20  # readings that a spike must stand out from
_SPIKE_SPREADS = 8  # median absolute deviations, scaled to be a standard deviation of normal noise
_SPIKE_LOSS = 0.25  # half of the loss that a training starts with
_SPIKE_NORMS = 10  # times the median gradient norm
_KL_ZEROS = 25  # readings in a row
_MOVED = 0.01  # a reward that is plainly not that of the reference
_KL_FAR = 1.0  # beta times KL: less is no harm, however small the margin is
_MARGIN_FALL = 0.1
_NOISE = 3  # median absolute deviations that a trend must be above
_COLLAPSED = {"desirable": -1.0, "undesirable": -5.0}
_STARVED_READINGS = 10
_STARVED_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The means of one log, of the steps from `first_step` to `step`; None for what was not logged or not finite."""

    first_step: int
    step: int
    loss: float | None = None
    grad_norm: float | None = None  # of the last step alone
    kl: float | None = None
    desirable: float | None = None  # reward
    undesirable: float | None = None  # reward
    margin: float | None = None
    waiting: float | None = None  # the share of the time that was spent waiting for data


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One thing worth a warning. `is_of_rows` where the rows of its steps are the first to look at."""

    name: str
    first_step: int
    step: int
    what: str
    cause: str
    look_at: str
    is_of_rows: bool = False


@dataclass(frozen=True, slots=True)
class Training:
    """What a watch must know of a training besides its numbers."""

    beta: float
    has_kl: bool  # whether the loss has a KL term


Watch = Callable[[Sequence[Reading], Training], "Alarm | None"]


def alarms(readings: Sequence[Reading], training: Training) -> Iterator[Alarm]:
    """What the watches say of the latest `readings`, the last of which is new. All quiet on a healthy training."""
    for watch in WATCHES:
        alarm = watch(readings[-HISTORY:], training)
        if alarm is not None:
            yield alarm


def reading_of(entry: Mapping[str, Any], first_step: int) -> Reading | None:
    """The reading of an entry of `metrics.jsonl`; None where it is none of training steps."""
    if "loss" not in entry:
        return None
    return Reading(
        first_step=first_step,
        step=entry["step"],
        loss=entry["loss"],
        grad_norm=entry.get("grad_norm"),
        kl=entry.get("kl"),
        desirable=entry.get("rewards/chosen"),
        undesirable=entry.get("rewards/rejected"),
        margin=entry.get("rewards/margins"),
        waiting=entry.get("data_wait_share"),
    )


def no_gradient(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The gradient is 0, and stays so."""
    last = readings[-2:]
    if len(last) < 2 or any(reading.grad_norm != 0 for reading in last):
        return None
    if any(reading.desirable or reading.undesirable for reading in last):
        return Alarm(
            name="saturated-loss",
            first_step=last[0].first_step,
            step=last[-1].step,
            what="the gradient is 0, while rewards are far from 0",
            cause="rewards so large that the loss is flat: the learning rate is too high, or beta too large",
            look_at="kto.learning_rate, kto.beta",
        )
    return Alarm(
        name="no-gradient",
        first_step=last[0].first_step,
        step=last[-1].step,
        what=f"the gradient is 0, and the loss stays at {last[-1].loss:g}",
        cause="no token of a completion reaches the loss, or no weight that is trained takes part in it",
        look_at="the completions of these rows, and lora.target_modules",
        is_of_rows=True,
    )


def spike(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The loss or the gradient norm is far above its running median."""
    *before, last = readings
    losses = [reading.loss for reading in before if reading.loss is not None]
    norms = [reading.grad_norm for reading in before if reading.grad_norm is not None]
    told = ""
    if last.loss is not None and len(losses) >= _SPIKE_HISTORY:
        usual = median(losses)
        if last.loss - usual > max(_SPIKE_LOSS, _SPIKE_SPREADS * 1.4826 * _spread(losses)):
            told = f"the loss jumped to {last.loss:.3g}, from a median of {usual:.3g}"
    if not told and last.grad_norm is not None and len(norms) >= _SPIKE_HISTORY:
        usual = median(norms)
        if last.grad_norm > _SPIKE_NORMS * usual > 0:
            told = f"the gradient norm jumped to {last.grad_norm:.3g}, from a median of {usual:.3g}"
    if not told:
        return None
    return Alarm(
        name="spike",
        first_step=last.first_step,
        step=last.step,
        what=told,
        cause="rows unlike all others (a wrong label, garbage, a very long completion), or a learning rate too high",
        look_at="the rows of the batch; kto.logging_steps: 1 says which batch it is",
        is_of_rows=True,
    )


def kl_rising(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The KL term rises through all windows, to where it outweighs what is learned: the margin, where there is one."""
    points = _trend([reading.kl for reading in readings]) if training.has_kl else None
    if points is None or not _rises(points) or points[-1] < 2 * points[0]:
        return None
    learned = [reading.margin for reading in readings[-_WINDOW:] if reading.margin is not None]
    if training.beta * points[-1] < max(_KL_FAR, median(learned or [0.0])):
        return None
    return _of_trend(
        readings,
        name="kl-rising",
        what=f"KL rises steadily, from {points[0]:.3g} to {points[-1]:.3g}",
        cause="the policy drifts away from the reference on all completions, good or bad",
        look_at="a lower kto.learning_rate, a larger kto.beta",
    )


def kl_at_zero(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The KL term stays at 0 although the policy has moved."""
    last = readings[-_KL_ZEROS:]
    if not training.has_kl or len(last) < _KL_ZEROS or any(reading.kl != 0 for reading in last):
        return None
    if not any(abs(reward or 0) > _MOVED for reading in last for reward in (reading.desirable, reading.undesirable)):
        return None
    return Alarm(
        name="kl-at-zero",
        first_step=last[0].first_step,
        step=last[-1].step,
        what=f"KL is 0 in {len(last)} logs in a row, while rewards move",
        cause="every completion gets less likely, or KL partners are all alike (few different completions)",
        look_at="logps/chosen and logps/rejected in metrics.jsonl; KTO406 and repeated completions of the cache",
    )


def margin_falling(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The margin between the rewards of both classes shrinks through all windows."""
    values = [reading.margin for reading in readings]
    points = _trend(values)
    if points is None or not _falls(points) or points[0] - points[-1] < max(_MARGIN_FALL, _noise(values)):
        return None
    return _of_trend(
        readings,
        name="margin-falling",
        what=f"the margin falls steadily, from {points[0]:+.3g} to {points[-1]:+.3g}",
        cause="the classes are told apart less and less: contradicting labels, or a learning rate too high",
        look_at="contradictions in the report of the cache; labels of a few rows; kto.learning_rate",
    )


def reward_collapsing(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The reward of one class falls through all windows, to where its answers have all but lost their probability."""
    for name in ("desirable", "undesirable"):
        values = [getattr(reading, name) for reading in readings]
        points = _trend(values)
        if points is None or not _falls(points) or points[-1] > _COLLAPSED[name]:
            continue
        if points[0] - points[-1] >= _noise(values):
            return _of_trend(
                readings,
                name=f"{name}-collapsing",
                what=f"the reward of {name} rows falls steadily, from {points[0]:+.3g} to {points[-1]:+.3g}",
                cause="completions of this class lose nearly all probability: the learning rate or a loss weight is "
                "too high",
                look_at="kto.learning_rate, weights, kto.beta; what the model writes now",
            )
    return None


def starving(readings: Sequence[Reading], training: Training) -> Alarm | None:
    """The loader is slower than the step."""
    shares = [reading.waiting for reading in readings[-_STARVED_READINGS:] if reading.waiting is not None]
    if len(shares) < _STARVED_READINGS or median(shares) <= _STARVED_SHARE:
        return None
    return Alarm(
        name="data-starvation",
        first_step=readings[-_STARVED_READINGS].first_step,
        step=readings[-1].step,
        what=f"{fmean(shares):.0%} of the time is spent waiting for data",
        cause="batches are made more slowly than they are trained: images are decoded and processed on the way",
        look_at="kto.dataloader_num_workers, the speed of the image storage, images packed by `ktodata preprocess`",
    )


WATCHES: tuple[Watch, ...] = (
    no_gradient,
    spike,
    kl_rising,
    kl_at_zero,
    margin_falling,
    reward_collapsing,
    starving,
)


def _of_trend(readings: Sequence[Reading], *, name: str, what: str, cause: str, look_at: str) -> Alarm:
    first = readings[-_WINDOW * _WINDOWS]
    return Alarm(
        name=name, first_step=first.first_step, step=readings[-1].step, what=what, cause=cause, look_at=look_at
    )


def _trend(values: Sequence[float | None]) -> list[float] | None:
    """The medians of the last windows, oldest first; None while there are too few readings."""
    last = values[-_WINDOW * _WINDOWS :]
    windows = [[v for v in last[i : i + _WINDOW] if v is not None] for i in range(0, len(last), _WINDOW)]
    if len(last) < _WINDOW * _WINDOWS or not all(windows):
        return None
    return [median(window) for window in windows]


def _rises(points: Sequence[float]) -> bool:
    return all(after > before for before, after in pairwise(points))


def _falls(points: Sequence[float]) -> bool:
    return _rises(points[::-1])


def _noise(values: Sequence[float | None]) -> float:
    """By how much a trend must have moved to be none of chance: the spread within a window."""
    last = values[-_WINDOW * _WINDOWS :]
    windows = [[v for v in last[i : i + _WINDOW] if v is not None] for i in range(0, len(last), _WINDOW)]
    return _NOISE * median(_spread(window) for window in windows)


def _spread(values: Sequence[float]) -> float:
    """The median absolute deviation."""
    middle = median(values)
    return median(abs(value - middle) for value in values)

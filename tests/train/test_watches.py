"""What the watches say of sequences of readings. Those of a real training are in test_watching.py."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from kto_train.watches import HISTORY, Reading, Training, alarms, reading_of

KTO = Training(beta=0.1, has_kl=True)
NO_KL = Training(beta=0.1, has_kl=False)


def readings(count: int = HISTORY, **curves: Any) -> list[Reading]:
    """Readings of one step each, healthy but for `curves`: functions of the place among them, or one value for all."""
    rng = random.Random(7)
    found = []
    for i in range(count):
        healthy = Reading(
            first_step=i + 1,
            step=i + 1,
            loss=0.5 - 0.004 * i + rng.uniform(-0.05, 0.05),
            grad_norm=rng.uniform(2, 6),
            kl=max(0.0, 0.05 * i + rng.uniform(-1, 1)),
            desirable=0.02 * i + rng.uniform(-0.05, 0.05),
            undesirable=-0.02 * i + rng.uniform(-0.05, 0.05),
            margin=0.04 * i + rng.uniform(-0.1, 0.1),
            waiting=rng.uniform(0, 0.1),
        )
        found.append(
            replace(healthy, **{name: curve(i) if callable(curve) else curve for name, curve in curves.items()})
        )
    return found


def names(given: list[Reading], training: Training = KTO) -> list[str]:
    return [alarm.name for alarm in alarms(given, training)]


@pytest.mark.parametrize("count", [1, 2, HISTORY, 4 * HISTORY])
def test_a_healthy_training_is_left_in_peace(count: int) -> None:
    given = readings(count)
    assert [name for i in range(count) for name in names(given[: i + 1])] == []


def last(value: float, usual: float) -> Any:
    return lambda i: value if i == HISTORY - 1 else usual


@pytest.mark.parametrize(
    ("curves", "name"),
    [
        ({"grad_norm": 0.0, "loss": 0.5, "desirable": 0.0, "undesirable": 0.0}, "no-gradient"),
        ({"grad_norm": 0.0, "desirable": 40.0}, "saturated-loss"),
        ({"loss": last(0.9, 0.4)}, "spike"),
        ({"grad_norm": last(70.0, 3.0)}, "spike"),
        ({"kl": lambda i: 1.0 + i}, "kl-rising"),
        ({"kl": 0.0}, "kl-at-zero"),
        ({"margin": lambda i: 1.0 - 0.03 * i}, "margin-falling"),
        ({"desirable": lambda i: -0.08 * i}, "desirable-collapsing"),
        ({"undesirable": lambda i: -0.3 * i}, "undesirable-collapsing"),
        ({"waiting": 0.5}, "data-starvation"),
    ],
)
def test_a_watch_sees_what_it_is_there_for_and_no_other_does(curves: dict[str, Any], name: str) -> None:
    (alarm,) = alarms(readings(**curves), KTO)
    assert alarm.name == name
    assert alarm.first_step <= alarm.step == HISTORY
    assert all((alarm.what, alarm.cause, alarm.look_at))


@pytest.mark.parametrize(
    "curves",
    [
        {"kl": lambda i: 0.1 * i},  # rises, as at every beginning, and is small against the rewards
        {"kl": lambda i: 1.0 + i, "margin": lambda i: 0.2 * i},  # while more is learned than lost
        {"kl": 0.0, "desirable": 0.0, "undesirable": 0.0},  # nothing has moved yet: the rate is warmed up
        {"undesirable": lambda i: -0.15 * i},  # what is learned
        {"margin": lambda i: 1.0 - 0.002 * i},  # less than chance moves it
        {"loss": lambda i: 0.4 + 0.2 * (i % 2)},  # noisy all along
        {"grad_norm": None, "kl": None, "margin": None, "desirable": None},  # of one label, with a loss that logs less
    ],
)
def test_what_only_resembles_it_is_left_in_peace(curves: dict[str, Any]) -> None:
    assert names(readings(**curves)) == []


def test_a_loss_without_a_kl_term_has_no_kl_to_watch() -> None:
    assert names(readings(kl=0.0), NO_KL) == []


def test_an_evaluation_is_no_reading() -> None:
    assert reading_of({"step": 4, "eval_loss": 0.5}, 1) is None
    entry = {"step": 4, "loss": 0.5, "rewards/chosen": 0.1, "rewards/rejected": -0.1, "rewards/margins": 0.2, "kl": 1.0}
    assert reading_of(entry, 3) == Reading(
        first_step=3, step=4, loss=0.5, desirable=0.1, undesirable=-0.1, margin=0.2, kl=1.0
    )

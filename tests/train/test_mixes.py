from __future__ import annotations

import math
from collections import Counter
from dataclasses import astuple
from itertools import combinations
from pathlib import Path

import pytest
import torch
from mixes import MIXES, Mix, Outcome, compare, make_case
from test_loss_equality import Trained, apart

pytestmark = pytest.mark.slow


def test_any_two_choices_meet_in_as_many_mixes_as_any_others() -> None:
    columns = list(zip(*map(astuple, MIXES), strict=True))
    for one, other in combinations(columns, 2):
        assert sorted(Counter(zip(one, other, strict=True)).values()) == [2, 2, 2, 2]


@pytest.mark.parametrize(("family", "mix"), [("llama3", MIXES[1]), ("idefics3", MIXES[2])])
def test_two_epochs_in_a_mix_of_options_equal_stock_trl(family: str, mix: Mix, tmp_path: Path) -> None:
    outcome = compare(make_case(family, mix, tmp_path), mix.reference)
    assert outcome.is_right, str(outcome)


@pytest.mark.parametrize(
    "found",
    [
        ([{"loss": 0.5, "kl": 0.1}], torch.tensor([1.0, 2.0 + 2e-6])),
        ([{"loss": 0.5, "kl": 0.1 + 2e-6}], torch.tensor([1.0, 2.0])),
        ([{"loss": math.nan, "kl": 0.1}], torch.tensor([1.0, 2.0])),
        ([{"loss": 0.5}], torch.tensor([1.0, 2.0])),
        ([], torch.tensor([1.0, 2.0])),
    ],
    ids=["weights", "kl", "no number", "no KL term", "no step"],
)
def test_a_training_that_went_otherwise_is_not_right(found: Trained) -> None:
    expected = ([{"loss": 0.5, "kl": 0.1}], torch.tensor([1.0, 2.0]))
    assert Outcome(apart(expected, expected), kl=0.1).is_right
    assert not Outcome(apart(expected, expected), kl=0.0).is_right
    outcome = Outcome(apart(found, expected), kl=0.1)
    assert not outcome.is_right
    assert str(outcome).endswith("NOT AS STOCK TRL")

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_data.distribution import Bin, Quantiles, Separation, distribution, group_separation, separation

VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(VALUES, VALUES)
def test_auc_is_the_share_of_pairs_that_the_desirable_side_wins(left: list[int], right: list[int]) -> None:
    wins = sum((x > y) + (x == y) / 2 for x, y in product(left, right))
    found = separation(Counter(left), Counter(right))
    assert found is not None
    assert found.auc == pytest.approx(wins / (len(left) * len(right)))


def test_sigma_is_the_spread_of_the_auc_of_shuffled_labels() -> None:
    values = [value % 5 for value in range(40)]
    toss = random.Random(1)
    aucs = []
    for _ in range(2000):
        toss.shuffle(values)
        found = separation(Counter(values[:15]), Counter(values[15:]))
        assert found is not None
        aucs.append(found.auc)
    spread = (sum((auc - 0.5) ** 2 for auc in aucs) / len(aucs)) ** 0.5
    assert found.sigma == pytest.approx(spread, rel=0.1)


def test_nothing_is_told_apart_where_a_label_is_missing() -> None:
    assert separation({3: 2}, {}) is None
    assert distribution({}, {}).bins == ()
    assert group_separation([(4, 0), (3, 0)]) is None


def test_quantiles_are_values_that_occur() -> None:
    found = distribution(dict.fromkeys(range(1, 101), 1), {7: 5})
    assert found.desirable == Quantiles(1, 10, 50, 90, 100)
    assert found.undesirable == Quantiles(7, 7, 7, 7, 7)


def test_bins_have_all_samples_and_no_gaps() -> None:
    found = distribution({0: 1, 1: 2, 14: 3}, {15: 4, 31: 5})
    assert found.bins == (
        Bin(0, 1, 1, 0),
        Bin(1, 10, 2, 0),
        Bin(10, 15, 3, 0),
        Bin(15, 20, 0, 4),
        Bin(20, 30, 0, 0),
        Bin(30, 50, 0, 5),
    )


def test_a_source_of_its_own_for_each_sample_tells_nothing() -> None:
    found = group_separation([(1, 0)] * 500 + [(0, 1)] * 500)
    assert found is not None
    assert not found.exceeds(0.55)


def test_sources_that_differ_by_chance_tell_nothing() -> None:
    toss = random.Random(2)
    groups = [(count := toss.getrandbits(10).bit_count(), 10 - count) for _ in range(200)]
    found = group_separation(groups)
    assert found is not None
    assert abs(found.auc - 0.5) < 4 * found.sigma


def test_sources_of_one_label_tell_everything() -> None:
    found = group_separation([(82, 0), (0, 82), (82, 0)])
    assert found is not None
    assert found.strength == 1


def test_few_samples_exceed_nothing() -> None:
    assert not Separation(1.0, 0.3).exceeds(0.7)
    assert Separation(0.1, 0.05).exceeds(0.7)


@pytest.mark.parametrize(("low", "high", "words"), [(0, 1, "0"), (1, 10, "1 to 9"), (1000, 1500, "1,000 to 1,499")])
def test_a_bin_is_named_by_the_values_that_belong_to_it(low: int, high: int, words: str) -> None:
    assert Bin(low, high, 1, 1).words == words

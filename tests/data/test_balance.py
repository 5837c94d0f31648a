"""The balance value, its bands and its edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_data.balance import AdmissibleWeights, BandWeights, Interval, Verdict, admissible_weights

counts = st.integers(min_value=1, max_value=10**8)
weights = st.floats(min_value=0.01, max_value=100)


def test_equal_counts_are_balanced_at_equal_weights() -> None:
    assert admissible_weights(150, 150) == AdmissibleWeights(
        num_desirable=150,
        num_undesirable=150,
        desirable_weight=1.0,
        undesirable_weight=1.0,
        balance=1.0,
        verdict=Verdict.BALANCED,
        trl=BandWeights(upper=4 / 3, desirable=Interval(1.0, 4 / 3), undesirable=Interval(0.75, 1.0)),
        paper=BandWeights(upper=1.5, desirable=Interval(1.0, 1.5), undesirable=Interval(1 / 1.5, 1.0)),
    )


@pytest.mark.parametrize(
    ("desirable", "undesirable", "verdict"),
    [
        (133, 100, Verdict.BALANCED),
        (1334, 1000, Verdict.BALANCED),  # a hair above 4/3
        (997, 1000, Verdict.BALANCED),  # a hair under 1
        (140, 100, Verdict.WIDE),
        (151, 100, Verdict.TOO_HIGH),
        (90, 100, Verdict.TOO_LOW),
        (5, 0, Verdict.UNDEFINED),
        (0, 5, Verdict.UNDEFINED),
        (0, 0, Verdict.UNDEFINED),
    ],
)
def test_verdict_follows_the_bands_with_tolerance(desirable: int, undesirable: int, verdict: Verdict) -> None:
    assert admissible_weights(desirable, undesirable).verdict is verdict


def test_no_weights_are_offered_where_a_label_is_missing() -> None:
    weights = admissible_weights(5, 0)
    assert (weights.balance, weights.trl, weights.paper) == (None, None, None)


@given(counts, counts, weights, weights)
def test_every_offered_end_of_the_narrow_band_is_balanced(n_d: int, n_u: int, w_d: float, w_u: float) -> None:
    band = admissible_weights(n_d, n_u, w_d, w_u).trl
    assert band is not None
    for weight in (band.desirable.low, band.desirable.high):
        assert admissible_weights(n_d, n_u, weight, w_u).verdict is Verdict.BALANCED
    for weight in (band.undesirable.low, band.undesirable.high):
        assert admissible_weights(n_d, n_u, w_d, weight).verdict is Verdict.BALANCED

"""Label balance: which loss weights fit the numbers of desirable and undesirable samples.

The balance value of Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization" (arXiv 2402.01306), is

    b = (desirable_weight * num_desirable) / (undesirable_weight * num_undesirable)

Two bands for it are published: [1, 4/3] (the paper's versions 1 to 3, TRL, ms-swift) and [1, 3/2] (version 4, Eq. 9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

TRL_UPPER = 4 / 3
PAPER_UPPER = 3 / 2
_TOLERANCE = 0.005  # TRL rounds 4/3 to 1.33: a weight copied from its output must pass


class Verdict(StrEnum):
    """Where the balance value lies."""

    BALANCED = "balanced"  # within [1, 4/3]
    WIDE = "within the wider band"  # within [1, 3/2] only
    TOO_LOW = "too low"  # the undesirable side weighs too much
    TOO_HIGH = "too high"  # the desirable side weighs too much
    UNDEFINED = "undefined"  # a label has no samples


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval of weights."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BandWeights:
    """The weights that bring b into [1, `upper`]. Change one and leave the other: raising both raises the loss."""

    upper: float
    desirable: Interval  # admissible desirable weights, the undesirable one staying as it is
    undesirable: Interval  # admissible undesirable weights, the desirable one staying as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissibleWeights:
    """The balance of a dataset under the given weights, and the weights that would balance it.

    `balance`, `trl` and `paper` are None where a label has no samples: no weight can balance nothing.
    """

    num_desirable: int
    num_undesirable: int
    desirable_weight: float
    undesirable_weight: float
    balance: float | None
    verdict: Verdict
    trl: BandWeights | None  # the band [1, 4/3]
    paper: BandWeights | None  # the band [1, 3/2]


def admissible_weights(
    num_desirable: int, num_undesirable: int, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> AdmissibleWeights:
    """The balance value (Eq. 9 of arXiv 2402.01306v4) and the intervals of weights for both published bands.

    With n_D, n_U the counts and w_D, w_U the weights, b = w_D n_D / (w_U n_U) lies in [1, c] where
    w_D is in [w_U n_U / n_D, c w_U n_U / n_D], or w_U is in [w_D n_D / (c n_U), w_D n_D / n_U].
    Counts must not be negative and weights must be positive.
    """
    assert num_desirable >= 0
    assert num_undesirable >= 0
    assert desirable_weight > 0
    assert undesirable_weight > 0
    balance = None
    verdict = Verdict.UNDEFINED
    trl = paper = None
    if num_desirable and num_undesirable:
        desirable = desirable_weight * num_desirable
        undesirable = undesirable_weight * num_undesirable
        balance = desirable / undesirable
        verdict = _verdict(balance)
        trl, paper = (
            BandWeights(
                upper=upper,
                desirable=Interval(undesirable / num_desirable, upper * undesirable / num_desirable),
                undesirable=Interval(desirable / num_undesirable / upper, desirable / num_undesirable),
            )
            for upper in (TRL_UPPER, PAPER_UPPER)
        )
    return AdmissibleWeights(
        num_desirable=num_desirable,
        num_undesirable=num_undesirable,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        balance=balance,
        verdict=verdict,
        trl=trl,
        paper=paper,
    )


def automatic_weights(num_desirable: int, num_undesirable: int) -> AdmissibleWeights:
    """The weights that training takes by itself: from 1 and 1 it changes one of them, the one of the rarer side, by the
    least that enters [1, 4/3]. Of one label alone there is nothing to balance: they stay at 1."""
    plain = admissible_weights(num_desirable, num_undesirable)
    if plain.trl is None or plain.verdict is Verdict.BALANCED:
        return plain
    if plain.verdict is Verdict.TOO_LOW:
        return admissible_weights(num_desirable, num_undesirable, _rounded(plain.trl.desirable.low), 1.0)
    return admissible_weights(num_desirable, num_undesirable, 1.0, _rounded(plain.trl.undesirable.low))


def _rounded(weight: float) -> float:
    """Up to four digits: a weight that can be read, and lies within the band whose lower bound it was."""
    scale = 10.0 ** (3 - math.floor(math.log10(weight)))
    return math.ceil(weight * scale) / scale


def _verdict(balance: float) -> Verdict:
    if balance < 1 - _TOLERANCE:
        return Verdict.TOO_LOW
    if balance <= TRL_UPPER + _TOLERANCE:
        return Verdict.BALANCED
    if balance <= PAPER_UPPER + _TOLERANCE:
        return Verdict.WIDE
    return Verdict.TOO_HIGH

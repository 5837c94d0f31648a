"""The mixes of options in which every family is held against stock TRL: any two choices meet in one of them.

All 64 mixes of each family would take hours for what eight of them show: a fault hardly ever needs more than two
options to come together. Processes, weights and reference are crossed, which is eight mixes. Accumulation is 2 where
processes and weights are both the first choice or both the second, and checkpointing is on where processes and
reference are; images are packed where one or all of the three are the second choice. So every two choices of any two
options meet in two mixes: an orthogonal array of strength two, to which `test_mixes.py` holds the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tiny_models
from accelerate.utils import gather_object
from test_loss_equality import Apart, Case, apart, trained
from tiny_models import IMAGE_FAMILIES


@dataclass(frozen=True, slots=True)
class Mix:
    """One choice of each option. Whether images are packed means nothing to a family of texts."""

    processes: int
    method: str  # which weights are trained
    reference: str
    accumulation: int
    checkpointing: bool
    packed: bool

    def told(self, family: str) -> str:
        """The mix in words."""
        words = [
            f"{self.processes} process{'es' if self.processes > 1 else ''}",
            f"{self.method}, {self.reference} reference",
            f"accumulation {self.accumulation}",
            f"checkpointing {'on' if self.checkpointing else 'off'}",
        ]
        if family in IMAGE_FAMILIES:
            words.append("packed images" if self.packed else "image files")
        return ", ".join(words)


MIXES = (
    Mix(1, "full", "live", 2, True, False),
    Mix(1, "full", "cached", 2, False, True),
    Mix(1, "lora", "live", 1, True, True),
    Mix(1, "lora", "cached", 1, False, False),
    Mix(2, "full", "live", 1, False, True),
    Mix(2, "full", "cached", 1, True, False),
    Mix(2, "lora", "live", 2, False, False),
    Mix(2, "lora", "cached", 2, True, True),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one family fared in one mix: told in a line."""

    apart: Apart
    kl: float  # the largest KL term of stock TRL's steps

    @property
    def is_right(self) -> bool:
        """Also not where the KL term was 0 all along: then nothing was shown of it."""
        return self.apart.is_equal() and self.kl > 0

    def __str__(self) -> str:
        found = f"loss {self.apart.loss:.1e}, weights {self.apart.weights:.1e}, KL up to {self.kl:.2g}"
        return found if self.is_right else f"{found}: NOT AS STOCK TRL"


def make_model(family: str, folder: Path) -> Path:
    """The model of a family, made unless it is there."""
    model = folder / "models" / family
    return model if model.exists() else tiny_models.build(family, model)


def make_caches(family: str, folder: Path) -> None:
    """All that the mixes of a family are trained from, so that two processes find it made."""
    for packed in (False, True) if family in IMAGE_FAMILIES else (False,):
        Case(family, make_model(family, folder), folder / "mixes" / family, "full", packed=packed)


def make_case(family: str, mix: Mix, folder: Path) -> Case:
    """A family in a mix, from what `make_caches` made."""
    return Case(
        family,
        make_model(family, folder),
        folder / "mixes" / family,
        mix.method,
        packed=mix.packed and family in IMAGE_FAMILIES,
        gradient_accumulation_steps=mix.accumulation,
        gradient_checkpointing=mix.checkpointing,
    )


def compare(case: Case, reference: str) -> Outcome:
    """Two epochs by either trainer, in as many processes as this is one of. All of them return the same."""
    ours = case.cached(reference)
    # Stock TRL keeps no reference of rows with images: there the live one is what a kept one must come to.
    stock = case.stock(ours, "live" if case.has_images else reference)
    expected = trained(stock)
    found = gather_object([apart(trained(ours), expected)])
    worst = Apart(*(max(values) for values in zip(*found, strict=True)))
    return Outcome(worst, max(step["kl"] for step in expected[0]))

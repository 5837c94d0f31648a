"""What a training is to be, as far as its data must know, and what can be wrong with it.

Whoever trains reads its own config and makes a `TrainPlan` of it: a function from the file's path to the plan, in the
entry-point group `ktodata.training`. The same checks then serve `validate`, which makes findings of them, and the
training, which refuses to start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from kto_data.balance import AdmissibleWeights, Verdict, admissible_weights
from kto_data.errors import UsageError

if TYPE_CHECKING:
    from kto_data.manifest import Manifest
    from kto_data.processor import Processor

NO_KL_LOSS = "apo_zero_unpaired"
"""The loss that needs no KL term, and so no second row."""

_FULL_RATES = (5e-7, 5e-6)
_LORA_RATES = (5e-7, 1e-4)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a training. `key` is dotted, as in `kto.beta`."""

    key: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """The settings of a training that its data has to do with."""

    path: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)  # dotted key -> its line in the file
    problems: tuple[Problem, ...] = ()  # keys that are unknown, or hold what they cannot
    unchecked: tuple[Problem, ...] = ()  # sections whose keys could not be looked at, and why
    model: str | None = None
    cache: str | None = None
    trust_remote_code: bool = False
    loss_type: str = "kto"
    batch_sizes: Mapping[str, int] = field(default_factory=dict)  # dotted key -> samples a device
    batch_size: int | None = None  # the one of training, where the config names it
    evaluates: tuple[str, ...] = ()  # dotted keys that ask for evaluation
    weights: tuple[float, float] | None = None  # desirable, undesirable; None: chosen to balance the labels
    learning_rate: float | None = None  # None: the trainer's own
    is_lora: bool = False

    def batches_of_one(self) -> Iterator[Problem]:
        """Batches too small for a loss with a KL term."""
        for key, size in self.batch_sizes.items():
            if self.loss_type != NO_KL_LOSS and size < 2:
                yield Problem(
                    key,
                    f"{key} is {size}, and a batch of one has no other row to take a KL completion from",
                    f"{key} of 2 or more (4 or more is advised), or kto.loss_type: {NO_KL_LOSS}",
                )

    def evaluation_without(self, what: str) -> Iterator[Problem]:
        """What asks for evaluation, given that `what` has no eval split."""
        for key in self.evaluates:
            yield Problem(
                key,
                f"{key} asks for evaluation, and {what} has no eval split",
                f"leave {key} out, or provide an eval split",
            )

    def evaluation_without_strategy(self) -> Iterator[Problem]:
        """What asks for evaluation while nothing says when there is to be one."""
        if "kto.eval_strategy" not in self.evaluates:
            for key in self.evaluates:
                yield Problem(
                    key,
                    f"{key} asks for evaluation, and without kto.eval_strategy nothing is evaluated",
                    f"kto.eval_strategy: steps, or epoch; or leave {key} out",
                )

    def unusual_rate(self) -> Iterator[Problem]:
        """A learning rate that is out of the usual range."""
        low, high = _LORA_RATES if self.is_lora else _FULL_RATES
        if self.learning_rate is not None and not low <= self.learning_rate <= high:
            said = f"a learning rate of {self.learning_rate:g} is outside the usual {low:g} to {high:g}"
            yield Problem("kto.learning_rate", said)

    def unbalanced(self, num_desirable: int, num_undesirable: int) -> Iterator[Problem]:
        """Weights that do not balance so many samples of each label."""
        if self.weights is not None:
            told = balance_warning(admissible_weights(num_desirable, num_undesirable, *self.weights))
            if told:
                yield Problem("weights", told)


def balance_warning(balance: AdmissibleWeights) -> str:
    """What is to be said of the label balance: nothing within [1, 4/3]. TRL says it for text and not for images."""
    if balance.verdict is Verdict.BALANCED:
        return ""
    if balance.trl is None:
        return (
            f"only one label: {balance.num_desirable} desirable and {balance.num_undesirable} undesirable rows; "
            "KTO learns from the contrast"
        )
    return (
        f"label balance b = {balance.balance:.3g} is outside [1, 4/3]: set the desirable weight in "
        f"{balance.trl.desirable} or the undesirable weight in {balance.trl.undesirable}, not both"
    )


def cache_mismatches(manifest: Manifest, processor: Processor) -> Iterator[Problem]:
    """Each part of a model that is another than that which the cache was made with; the key is the part's name."""
    if manifest.has_images != processor.has_images:
        kinds = {True: "takes images", False: "takes text alone"}
        yield Problem(
            "images",
            f"the cache was made for a model that {kinds[manifest.has_images]}, and {processor.model} "
            f"{kinds[processor.has_images]}",
            "run `ktodata preprocess` with this model",
        )
        return
    for name, now in processor.fingerprint_parts().items():
        then = manifest.parts.get(name)
        if then != now:
            yield Problem(
                name,
                f"the cache was made with another {name.replace('_', ' ')}: {then} then, {now} in {processor.model}",
                "run `ktodata preprocess` with this model, or train the model that the cache was made for",
            )


def read_train_plan(path: Path) -> TrainPlan:
    """The training that the config file at `path` describes.

    Raises `ConfigError` where it cannot be read, `UsageError` where no installed package trains.
    """
    for entry in entry_points(group="ktodata.training"):
        plan = entry.load()(path)
        assert isinstance(plan, TrainPlan)
        return plan
    raise UsageError("no installed package reads a training config", hint="install ktodata again")

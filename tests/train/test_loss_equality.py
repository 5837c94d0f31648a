"""The loss and the weights of stock `KTOTrainer`, to the last digits, over two epochs.

Stock TRL keeps one order for ever, so it is given the rows of both epochs, in the order of ours, as one.
"""

from __future__ import annotations

import math
import os
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from caches import NO_BUDGET, SIZES, image_records, make_cache, preprocess, stock_rows, text_records
from conftest import TinyModel
from datasets import Dataset, load_from_disk
from peft import LoraConfig
from tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES
from trl import KTOConfig, KTOTrainer

from kto_data.errors import ModelError
from kto_data.image import PixelBudget
from kto_data.processor import Processor, load_processor
from kto_train import Cache, CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow

ON_DEVICE = os.environ.get("KTODATA_TESTS_ON_DEVICE") == "1"
"""Whether to train on the machine's own device, where sums have one order as on processors: `make device`."""
if ON_DEVICE:
    torch.use_deterministic_algorithms(True, warn_only=True)

TOLERANCE = 1e-6
EPOCHS = 2
REFERENCES = ("live", "cached")
CROSSED = ("text", "qwen2_5_vl")
"""The families that are trained with every combination of options; each of the others has one of these, in turn."""
OPTIONS = tuple(product(("full", "lora"), (1, 2), (False, True)))
NOT_BY_TRL = ("gpt2", "llama4")
"""No chat template; and a model that is refused, as stock `KTOTrainer` stops at its first step (TRL 1.16)."""
TRAINED = tuple(family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES) if family not in NOT_BY_TRL)
OTHERS = tuple((family, *OPTIONS[i % len(OPTIONS)]) for i, family in enumerate(TRAINED) if family not in CROSSED)


def make_args(folder: Path, **overrides: Any) -> KTOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": not ON_DEVICE,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "gradient_checkpointing": False,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        "seed": 0,
        "desirable_weight": 1.25,
    }
    return KTOConfig(**{**settings, **overrides})


def make_lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=r".*(language_model|text_model|^model\.layers).*(q_proj|v_proj)")


def in_trained_order(trainer: CachedKTOTrainer, rows: Dataset) -> Dataset:
    """`rows`, once an epoch, in the order in which they are trained."""
    groups = trainer.train_groups
    return rows.select(
        [row for epoch in range(EPOCHS) for group in groups.epoch_order(0, epoch) for row in groups[int(group)]]
    )


Trained = tuple[list[dict[str, float]], torch.Tensor]
"""(losses and KL of each step, all weights after the training)."""


def trained(trainer: KTOTrainer) -> Trained:
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    steps = [{key: log[key] for key in ("loss", "kl") if key in log} for log in logs]
    return steps, torch.cat([weights.detach().flatten() for weights in trainer.model.parameters()])


class Apart(NamedTuple):
    """The largest differences between two trainings."""

    loss: float  # of any step, or of its KL term
    weights: float

    def is_equal(self) -> bool:
        return self.loss <= TOLERANCE and self.weights <= TOLERANCE  # which no NaN is


def apart(found: Trained, expected: Trained) -> Apart:
    """Infinitely, where it was not the same that was logged."""
    (steps, weights), (expected_steps, expected_weights) = found, expected
    if [list(step) for step in steps] != [list(step) for step in expected_steps]:
        return Apart(math.inf, math.inf)
    losses, expected_losses = (
        torch.tensor([list(step.values()) for step in logged], dtype=torch.float64)
        for logged in (steps, expected_steps)
    )
    return Apart(float((losses - expected_losses).abs().max()), float((weights - expected_weights).abs().max()))


class Case:
    """One family, data and options, trained by either trainer."""

    def __init__(self, family: str, model: Path, root: Path, method: str, *, packed: bool = False, **args: Any) -> None:
        self.model, self.root, self.method, self.args = str(model), root, method, args
        self.budget = NO_BUDGET
        self.options: dict[str, Any] = {}  # of both trainers
        self.has_images = family in IMAGE_FAMILIES
        self.records = image_records(root, 12) if self.has_images else text_records(12)
        folder = root / ("original" if packed else "cache")
        if not folder.exists():  # in a process of several, it was made before them
            make = partial(preprocess, packing="original") if packed else make_cache
            make(root, model, self.records)
        self.cache: Cache = load_cache(folder)
        self.processor: Processor = load_processor(self.model)

    def cached(self, reference: str) -> CachedKTOTrainer:
        args = self._args(reference, num_train_epochs=EPOCHS, precompute_ref_log_probs=reference == "cached")
        trainer = CachedKTOTrainer(
            self.model, cache=self.cache, args=args, processor=self.processor, peft_config=self._peft(), **self.options
        )
        assert (trainer.ref_model is None) == (reference == "cached" or self.method == "lora")
        return trainer

    def stock(self, like: CachedKTOTrainer, reference: str = "live") -> KTOTrainer:
        rows = in_trained_order(like, stock_rows(self.records, self.root if self.has_images else None, self.budget))
        if reference == "cached":
            rows = self._on_disk(rows, like)
        return KTOTrainer(
            self.model,
            args=self._args("stock", precompute_ref_log_probs=reference == "cached"),
            train_dataset=rows,
            processing_class=self.processor.processing_class,
            peft_config=self._peft(),
            **self.options,
        )

    def _on_disk(self, rows: Dataset, like: CachedKTOTrainer) -> Dataset:
        """Of rows in memory, each process of stock TRL keeps the reference in a temporary folder of its own, and all
        but the first find nothing there."""
        folder = self.root / "stock" / f"{self.method}-{like.args.world_size}"
        if like.accelerator.is_main_process:
            rows.save_to_disk(folder)
        like.accelerator.wait_for_everyone()
        return load_from_disk(folder)

    def _args(self, name: str, **overrides: Any) -> KTOConfig:
        rate = 1e-1 if self.method == "lora" else 1e-3  # an adapter starts from nothing: by little it moves nothing
        settings = {"learning_rate": rate, "per_device_train_batch_size": 3, **self.args, **overrides}
        return make_args(self.root / name, **settings)

    def _peft(self) -> LoraConfig | None:
        return make_lora() if self.method == "lora" else None


def assert_equals_stock(case: Case, references: tuple[str, ...], *, with_kl: bool = True) -> None:
    trainers = [case.cached(reference) for reference in references]
    expected = trained(case.stock(trainers[0]))
    assert any(step.get("kl", 0) > 0 for step in expected[0]) == with_kl
    for trainer in trainers:
        found = apart(trained(trainer), expected)
        assert found.is_equal(), found


@pytest.mark.parametrize(("method", "accumulation", "checkpointing"), OPTIONS)
@pytest.mark.parametrize("family", CROSSED)
def test_two_epochs_equal_stock_trl_in_every_combination_of_options(
    family: str, method: str, accumulation: int, checkpointing: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    args = {"gradient_accumulation_steps": accumulation, "gradient_checkpointing": checkpointing}
    assert_equals_stock(Case(family, tiny_model(family), tmp_path, method, **args), REFERENCES)


@pytest.mark.parametrize(("family", "method", "accumulation", "checkpointing"), OTHERS)
def test_two_epochs_of_every_family_equal_stock_trl(
    family: str, method: str, accumulation: int, checkpointing: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    args = {"gradient_accumulation_steps": accumulation, "gradient_checkpointing": checkpointing}
    assert_equals_stock(Case(family, tiny_model(family), tmp_path, method, **args), ("cached",))


@pytest.mark.parametrize("packing", ["original", "resized"])
def test_two_epochs_from_packed_images_equal_stock_trl(packing: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """The larger ones brought to the budget, which stock TRL has none of: it is given them as they are then."""
    case = Case("llava", tiny_model("llava"), tmp_path, "full")
    case.budget = PixelBudget(max_pixels=3000)
    options = ("--image-max-pixels", str(case.budget.max_pixels))
    case.cache = load_cache(preprocess(tmp_path, tiny_model("llava"), case.records, packing, *options))
    sizes = {(ref["width"], ref["height"]) for refs in case.cache["train"]["image_refs"] for ref in refs}
    assert len(sizes & set(SIZES)) == 1
    assert_equals_stock(case, ("cached",))


def test_two_epochs_of_a_loss_without_kl_equal_stock_trl(tiny_model: TinyModel, tmp_path: Path) -> None:
    case = Case("llava", tiny_model("llava"), tmp_path, "full", loss_type="apo_zero_unpaired")
    assert_equals_stock(case, REFERENCES, with_kl=False)


def test_a_model_that_trl_cannot_score_is_refused_by_name(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llama4"), image_records(tmp_path, 4)))
    with pytest.raises(ModelError, match=r"^Llama4ForConditionalGeneration has no part without its language head"):
        CachedKTOTrainer(str(tiny_model("llama4")), cache=cache, args=make_args(tmp_path / "cached"))

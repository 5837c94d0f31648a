"""The loss and the weights of stock `KTOTrainer`, to the last digits, over two epochs.

Stock TRL keeps one order for ever, so it is given the rows of both epochs, in the order of ours, as one.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, stock_rows, text_records
from conftest import TinyModel, write_jsonl
from datasets import Dataset
from peft import LoraConfig
from tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES
from trl import KTOConfig, KTOTrainer

from kto_data.cli import main
from kto_data.errors import ExitCode, ModelError
from kto_data.processor import Processor, load_processor
from kto_train import Cache, CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow

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
        "use_cpu": True,
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


def trained(trainer: KTOTrainer) -> tuple[list[dict[str, float]], torch.Tensor]:
    """(losses and KL of each step, all weights after the training)."""
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    steps = [{key: log[key] for key in ("loss", "kl") if key in log} for log in logs]
    return steps, torch.cat([weights.detach().flatten() for weights in trainer.model.parameters()])


class Case:
    """One family, data and options, trained by either trainer."""

    def __init__(self, family: str, model: Path, root: Path, method: str, **args: Any) -> None:
        self.model, self.root, self.method, self.args = str(model), root, method, args
        self.options: dict[str, Any] = {}  # of both trainers
        self.has_images = family in IMAGE_FAMILIES
        self.records = image_records(root, 12) if self.has_images else text_records(12)
        if not (root / "cache").exists():  # in a process of several, it was made before them
            make_cache(root, model, self.records)
        self.cache: Cache = load_cache(root / "cache")
        self.processor: Processor = load_processor(self.model)

    def cached(self, reference: str) -> CachedKTOTrainer:
        args = self._args(reference, num_train_epochs=EPOCHS, precompute_ref_log_probs=reference == "cached")
        trainer = CachedKTOTrainer(
            self.model, cache=self.cache, args=args, processor=self.processor, peft_config=self._peft(), **self.options
        )
        assert (trainer.ref_model is None) == (reference == "cached" or self.method == "lora")
        return trainer

    def stock(self, like: CachedKTOTrainer) -> KTOTrainer:
        rows = stock_rows(self.records, self.root if self.has_images else None)
        return KTOTrainer(
            self.model,
            args=self._args("stock"),
            train_dataset=in_trained_order(like, rows),
            processing_class=self.processor.processing_class,
            peft_config=self._peft(),
            **self.options,
        )

    def _args(self, name: str, **overrides: Any) -> KTOConfig:
        rate = 1e-1 if self.method == "lora" else 1e-3  # an adapter starts from nothing: by little it moves nothing
        settings = {"learning_rate": rate, "per_device_train_batch_size": 3, **self.args, **overrides}
        return make_args(self.root / name, **settings)

    def _peft(self) -> LoraConfig | None:
        return make_lora() if self.method == "lora" else None


def assert_equals_stock(case: Case, references: tuple[str, ...], *, with_kl: bool = True) -> None:
    trainers = [case.cached(reference) for reference in references]
    expected, expected_weights = trained(case.stock(trainers[0]))
    assert any(step.get("kl", 0) > 0 for step in expected) == with_kl
    for trainer in trainers:
        found, weights = trained(trainer)
        assert len(found) == len(expected)
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert one == pytest.approx(other, abs=TOLERANCE), number
        assert float((weights - expected_weights).abs().max()) <= TOLERANCE


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


@pytest.mark.parametrize(
    "packing", [["original"], ["resized", "--image-max-pixels", "10000"]], ids=["original", "resized"]
)
def test_two_epochs_from_packed_images_equal_stock_trl(
    packing: list[str], tiny_model: TinyModel, tmp_path: Path
) -> None:
    case = Case("llava", tiny_model("llava"), tmp_path, "full")
    data = write_jsonl(tmp_path / "train.jsonl", case.records)
    options = ["--model", case.model, "--output", str(tmp_path / "packed"), "--jobs", "1", "--pack-images"]
    assert main(["preprocess", str(data), *options, *packing]) == ExitCode.OK
    case.cache = load_cache(tmp_path / "packed")
    assert_equals_stock(case, ("cached",))


def test_two_epochs_of_a_loss_without_kl_equal_stock_trl(tiny_model: TinyModel, tmp_path: Path) -> None:
    case = Case("llava", tiny_model("llava"), tmp_path, "full", loss_type="apo_zero_unpaired")
    assert_equals_stock(case, REFERENCES, with_kl=False)


def test_a_model_that_trl_cannot_score_is_refused_by_name(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llama4"), image_records(tmp_path, 4)))
    with pytest.raises(ModelError, match=r"^Llama4ForConditionalGeneration has no part without its language head"):
        CachedKTOTrainer(str(tiny_model("llama4")), cache=cache, args=make_args(tmp_path / "cached"))

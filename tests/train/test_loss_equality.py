"""The loss and the weights of stock `KTOTrainer`, to the last digits, over an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, stock_rows, text_records
from conftest import TinyModel
from datasets import Dataset
from peft import LoraConfig
from tiny_models import IMAGE_FAMILIES, TEXT_FAMILIES
from trl import KTOConfig, KTOTrainer

from kto_data.errors import ModelError
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow

TOLERANCE = 1e-6
EPOCH_FAMILIES = ("text", "llava", "gemma3", "idefics3", "llava_next", "qwen2_5_vl")
"""Those that are trained for an epoch; the others are for a step."""
NOT_BY_TRL = ("gpt2", "llama4")
"""No chat template; and a model that is refused, as stock `KTOTrainer` stops at its first step (TRL 1.16)."""


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


def trained(trainer: KTOTrainer) -> tuple[list[dict[str, float]], torch.Tensor]:
    """(losses and KL of each step, all weights after the training)."""
    trainer.train()
    steps = [{key: log[key] for key in ("loss", "kl")} for log in trainer.state.log_history if "loss" in log]
    return steps, torch.cat([weights.detach().flatten() for weights in trainer.model.parameters()])


def assert_equal_training(stock: KTOTrainer, cached: KTOTrainer, *, kl_positive: bool = True) -> None:
    expected, expected_weights = trained(stock)
    found, found_weights = trained(cached)
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == pytest.approx(other, abs=TOLERANCE), step
    assert float((found_weights - expected_weights).abs().max()) <= TOLERANCE
    assert any(step["kl"] > 0 for step in expected) or not kl_positive


def in_trained_order(trainer: CachedKTOTrainer, rows: Dataset) -> Dataset:
    """`rows` in the order of the first epoch, in which stock TRL then takes them."""
    order = [row for group in trainer.train_groups.epoch_order(0, 0) for row in trainer.train_groups[int(group)]]
    return rows.select(order)


@pytest.mark.parametrize("reference", ["live", "cached"])
@pytest.mark.parametrize("family", EPOCH_FAMILIES)
def test_an_epoch_equals_stock_trl(family: str, reference: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model(family)
    records = text_records(12) if family == "text" else image_records(tmp_path, 12)
    cache = load_cache(make_cache(tmp_path, model, records))
    args = make_args(tmp_path / "cached", precompute_ref_log_probs=reference == "cached")
    cached = CachedKTOTrainer(str(model), cache=cache, args=args)
    assert (cached.ref_model is None) == (reference == "cached")
    rows = in_trained_order(cached, stock_rows(records, None if family == "text" else tmp_path))
    stock = KTOTrainer(
        str(model),
        args=make_args(tmp_path / "stock"),
        train_dataset=rows,
        processing_class=load_processor(str(model)).processing_class,
    )
    assert_equal_training(stock, cached)


@pytest.mark.parametrize("family", sorted({*IMAGE_FAMILIES, *TEXT_FAMILIES} - {*EPOCH_FAMILIES, *NOT_BY_TRL}))
def test_a_step_equals_stock_trl(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model(family)
    has_images = family in IMAGE_FAMILIES
    records = image_records(tmp_path, 4) if has_images else text_records(4)
    cache = load_cache(make_cache(tmp_path, model, records))
    cached = CachedKTOTrainer(str(model), cache=cache, args=make_args(tmp_path / "cached"))
    stock = KTOTrainer(
        str(model),
        args=make_args(tmp_path / "stock"),
        train_dataset=in_trained_order(cached, stock_rows(records, tmp_path if has_images else None)),
        processing_class=load_processor(str(model)).processing_class,
    )
    assert_equal_training(stock, cached, kl_positive=False)


def test_a_model_that_trl_cannot_score_is_refused_by_name(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llama4"), image_records(tmp_path, 4)))
    with pytest.raises(ModelError, match=r"^Llama4ForConditionalGeneration has no part without its language head"):
        CachedKTOTrainer(str(tiny_model("llama4")), cache=cache, args=make_args(tmp_path / "cached"))


@pytest.mark.parametrize("reference", ["live", "cached"])
def test_an_epoch_of_lora_equals_stock_trl(reference: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llava")
    records = image_records(tmp_path, 12)
    cache = load_cache(make_cache(tmp_path, model, records))
    lora = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj)")
    args = make_args(tmp_path / "cached", learning_rate=1e-1, precompute_ref_log_probs=reference == "cached")
    cached = CachedKTOTrainer(str(model), cache=cache, args=args, peft_config=lora)
    stock = KTOTrainer(
        str(model),
        args=make_args(tmp_path / "stock", learning_rate=1e-1),
        train_dataset=in_trained_order(cached, stock_rows(records, tmp_path)),
        processing_class=load_processor(str(model)).processing_class,
        peft_config=lora,
    )
    assert_equal_training(stock, cached)

"""The memory that is estimated, against the bytes of the tensors of real steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from peft import LoraConfig
from test_loss_equality import make_args
from transformers import AutoConfig, TrainerCallback
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import deepspeed_config

from kto_data.errors import ModelError
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache
from kto_train.estimate import ACTIVATION_ERROR, Estimator, Setup
from kto_train.footprint import BatchShape, count_adapter, count_kept, count_weights
from kto_train.memory import largest_batch, memory_table

pytestmark = pytest.mark.slow

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
TEXT_LORA = LoraConfig(
    r=4, target_modules="all-linear", exclude_modules=".*(vision_tower|projector).*", task_type="CAUSAL_LM"
)
BATCH = BatchShape(rows=4, tokens=64, image_tokens=16, patches=64, pixel_bytes=64 * 3 * 49 * 4)


class _Bytes(TrainerCallback):  # type: ignore[misc]
    """What the gradients take when a step is about to be made, and what the weights that got none."""

    gradients = 0
    unused = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.gradients = sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
        self.unused = sum(weight.nbytes for weight in trained if weight.grad is None)


@pytest.fixture
def make_trainer(tiny_model: TinyModel, tmp_path: Path):  # type: ignore[no-untyped-def]
    def make(
        family: str, lora: LoraConfig | None = None, freeze: tuple[str, ...] = (), **settings: Any
    ) -> CachedKTOTrainer:
        model = tiny_model(family)
        records = text_records(8) if family == "text" else image_records(tmp_path, 8)
        cache = load_cache(make_cache(tmp_path, model, records))
        args = make_args(tmp_path / "run", per_device_train_batch_size=4, max_steps=1, **settings)
        return CachedKTOTrainer(str(model), cache=cache, args=args, peft_config=lora, freeze=freeze)

    return make


def estimated(
    trainer: CachedKTOTrainer, lora: LoraConfig | None = None, freeze: tuple[str, ...] = ()
) -> tuple[Any, BatchShape]:
    name = trainer.model.config._name_or_path
    config = AutoConfig.from_pretrained(name)
    batch = largest_batch(trainer.cache, trainer.train_groups, load_processor(name), config)
    return Estimator(config, freeze).estimate(batch, Setup.of(trainer.args, config, lora)), batch


def saved_bytes(trainer: CachedKTOTrainer, shape: BatchShape) -> int:
    """Bytes of what a forward of the largest batch saves for the backward pass: each storage once, weights left out."""
    batches = list(trainer.get_train_dataloader())
    batch = next(batch for batch in batches if tuple(batch["input_ids"].shape) == (shape.rows, shape.tokens))
    given = [*trainer.model.parameters(), *batch.values()]
    known = {tensor.untyped_storage()._cdata for tensor in given if isinstance(tensor, torch.Tensor)}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_loss(trainer.model, batch)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize(
    ("family", "lora", "settings"),
    [
        pytest.param("text", None, {}, id="text"),
        pytest.param("llava", None, {"precompute_ref_log_probs": False}, id="llava-live"),
        pytest.param("gemma3", None, {"optim": "rmsprop", "precompute_ref_log_probs": True}, id="gemma3-rmsprop"),
        pytest.param("llava", LORA, {"precompute_ref_log_probs": True}, id="llava-lora"),
    ],
)
def test_weights_gradients_and_optimizer_are_those_of_a_real_step(
    family: str, lora: LoraConfig | None, settings: dict[str, Any], make_trainer: Any
) -> None:
    """Some towers end in layers whose output the model does not use. They get no gradients, and are counted."""
    trainer = make_trainer(family, lora, **settings)
    counted = _Bytes()
    trainer.add_callback(counted)
    trainer.train()
    parts, _ = estimated(trainer, lora)
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if value.dim()]
    states_of_unused = counted.unused * (1 if "optim" in settings else 2)
    reference = trainer.ref_model.parameters() if trainer.ref_model is not None else []
    assert parts.weights == pytest.approx(sum(weight.nbytes for weight in trainer.model.parameters()), rel=0.01)
    assert parts.gradients == pytest.approx(counted.gradients + counted.unused, rel=0.01)
    assert parts.optimizer == pytest.approx(sum(state.nbytes for state in states) + states_of_unused, rel=0.01)
    assert parts.reference == pytest.approx(sum(weight.nbytes for weight in reference), rel=0.01)


def test_where_zero_3_is_asked_for_the_whole_model_is_counted(tiny_model: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llava"))
    shape = {"dtype": torch.float32, "compute_dtype": torch.float32, "checkpointing": False}
    expected = count_weights(config), count_kept(config, BATCH, **shape)
    asked = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert (count_weights(config), count_kept(config, BATCH, **shape)) == expected
    assert deepspeed_config() is asked.config


def test_with_checkpointing_what_a_forward_keeps_is_within_the_error_that_is_told(make_trainer: Any) -> None:
    """Of text: for images the estimate is of the worst moment alone, one block of the vision tower recomputed."""
    trainer = make_trainer("text", gradient_checkpointing=True)
    _, batch = estimated(trainer)
    config = AutoConfig.from_pretrained(trainer.model.config._name_or_path)
    kept = count_kept(config, batch, dtype=torch.float32, compute_dtype=torch.float32, checkpointing=True)
    trainer.model.gradient_checkpointing_enable()  # as `train` does first
    assert kept.text == pytest.approx(saved_bytes(trainer, batch), rel=ACTIVATION_ERROR)


@pytest.mark.parametrize("family", ["text", "llava", "gemma3"])
def test_activations_are_within_the_error_that_is_told(family: str, make_trainer: Any) -> None:
    trainer = make_trainer(family, gradient_checkpointing=False)
    parts, batch = estimated(trainer)
    assert parts.activations == pytest.approx(saved_bytes(trainer, batch), rel=ACTIVATION_ERROR)


@pytest.mark.parametrize("lora", [None, TEXT_LORA], ids=["full", "lora"])
def test_a_tower_without_a_trained_weight_keeps_nothing(lora: LoraConfig | None, make_trainer: Any) -> None:
    freeze = ("vision_tower", "projector") if lora is None else ()
    trainer = make_trainer("llava", lora, freeze, gradient_checkpointing=False)
    parts, batch = estimated(trainer, lora, freeze)
    assert parts.activations == pytest.approx(saved_bytes(trainer, batch), rel=ACTIVATION_ERROR / 3)


def test_frozen_weights_have_neither_gradients_nor_states(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llava"))
    setup = Setup.of(make_args(tmp_path), config, None)
    whole, frozen = (Estimator(config, freeze).estimate(BATCH, setup) for freeze in ((), ("vision_tower",)))
    assert frozen.weights == whole.weights
    assert frozen.gradients < whole.gradients
    assert frozen.optimizer == 2 * frozen.gradients


def test_an_adapter_is_counted_by_peft_itself(tiny_model: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llava"))
    with pytest.raises(ModelError, match="does not fit"):
        count_adapter(config, LoraConfig(target_modules=["no_such_layer"]))


def test_the_table_names_what_would_need_less(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llava"))
    setup = Setup.of(make_args(tmp_path), config, None)
    lines = list(memory_table(Estimator(config), BATCH, setup, lora=LORA))
    assert [line[:22].rstrip() for line in lines[2:-1]] == [
        "this run",
        "ZeRO-3, offloaded",
        "LoRA, r = 4",
        "QLoRA, r = 4",
        "half the batch",
        "half the pixel budget",
    ]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert all(len(line) < 100 for line in lines)


def test_what_needs_less_is_estimated_to_need_less(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model("llava"))
    estimator, setup = Estimator(config), Setup.of(make_args(tmp_path), config, None)
    full = estimator.estimate(BATCH, setup)
    lora = estimator.estimate(BATCH, replace(setup, adapter=LORA))
    quantized = estimator.estimate(BATCH, replace(setup, adapter=LORA, packed_bytes=0.5625))
    offloaded = estimator.estimate(BATCH, replace(setup, zero_stage=3, is_offloaded=True))
    assert lora.gradients < full.gradients
    assert quantized.weights < lora.weights
    assert offloaded.optimizer == 0
    assert estimator.estimate(replace(BATCH, rows=2), setup).activations < full.activations
    checkpointed = estimator.estimate(BATCH, replace(setup, checkpointing=True))
    assert checkpointed.activations < estimator.estimate(BATCH, replace(setup, checkpointing=False)).activations

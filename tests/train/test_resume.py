"""A run that is stopped and gone on with ends, bit for bit, where an unbroken one ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from peft import LoraConfig
from test_loss_equality import make_args
from transformers import TrainerCallback

from kto_train import Cache, CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def run(model: Path, cache: Cache, folder: Path, *, lora: bool, stop: int | None, resume: Path | None = None):  # type: ignore[no-untyped-def]
    args = make_args(
        folder,
        num_train_epochs=2,
        learning_rate=1e-3,
        per_device_train_batch_size=3,
        precompute_ref_log_probs=True,
    )
    trainer = CachedKTOTrainer(
        str(model),
        cache=cache,
        args=args,
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1) if lora else None,
        callbacks=[StopAfter(stop)] if stop else [],
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return losses, trainer.model.state_dict()


@pytest.mark.parametrize(
    ("family", "lora"),
    [("llava", False), ("gemma3", False), ("qwen2_5_vl", False), ("text", False), ("llava", True)],
    ids=["llava", "gemma3", "qwen2_5_vl", "text", "llava-lora"],
)
@pytest.mark.parametrize("stop", [5])  # in the second epoch of four steps each
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    family: str, lora: bool, stop: int, tiny_model: TinyModel, tmp_path: Path
) -> None:
    records = text_records(12) if family == "text" else image_records(tmp_path, 12)
    cache = load_cache(make_cache(tmp_path, tiny_model(family), records))
    losses, weights = run(tiny_model(family), cache, tmp_path / "whole", lora=lora, stop=None)
    run(tiny_model(family), cache, tmp_path / "broken", lora=lora, stop=stop)
    resumed_losses, resumed_weights = run(
        tiny_model(family),
        cache,
        tmp_path / "broken",
        lora=lora,
        stop=None,
        resume=tmp_path / "broken" / f"checkpoint-{stop}",
    )
    assert resumed_losses == losses
    assert resumed_weights.keys() == weights.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, resumed_weights[name])] == []

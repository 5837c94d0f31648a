"""A run that is gone on with from a checkpoint ends, bit for bit, where the unbroken one ends, and logs the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from peft import LoraConfig
from test_loss_equality import TRAINED, make_args
from tiny_models import IMAGE_FAMILIES
from transformers import BitsAndBytesConfig

from kto_data.errors import ConfigError
from kto_train import Cache, CachedKTOTrainer, load_cache
from kto_train.checkpoint import flaw

pytestmark = pytest.mark.slow

TIMES = ("_runtime", "_per_second")


def drawn_cache(family: str, model: Path, root: Path, num_rows: int) -> Cache:
    records = image_records(root, num_rows) if family in IMAGE_FAMILIES else text_records(num_rows)
    return load_cache(make_cache(root, model, records))


def trained(
    model: Path,
    cache: Cache,
    folder: Path,
    *,
    lora: bool,
    resume: Path | None = None,
    packing: dict[str, Any] | None = None,
    **settings: Any,
) -> CachedKTOTrainer:
    settings = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 3,
        "precompute_ref_log_probs": True,
        "save_strategy": "steps",
        **settings,
    }
    trainer = CachedKTOTrainer(
        str(model),
        cache=cache,
        args=make_args(folder, **settings),
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1) if lora else None,
        quantization_config=BitsAndBytesConfig(**packing) if packing else None,
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def metrics(trainer: CachedKTOTrainer) -> list[dict[str, Any]]:
    return [{key: log[key] for key in log if not key.endswith(TIMES)} for log in trainer.state.log_history]


def assert_same_run(found: CachedKTOTrainer, expected: CachedKTOTrainer) -> None:
    assert metrics(found) == metrics(expected)
    weights, expected_weights = found.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == expected_weights.keys()
    assert [name for name, value in expected_weights.items() if not torch.equal(value, weights[name])] == []


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", TRAINED)
def test_a_resumed_run_of_every_family_ends_where_an_unbroken_one_does(
    family: str, lora: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model, cache = tiny_model(family), drawn_cache(family, tiny_model(family), tmp_path, 6)
    whole = trained(model, cache, tmp_path / "whole", lora=lora, save_steps=1)
    resume = tmp_path / "whole" / "checkpoint-1"
    assert_same_run(trained(model, cache, tmp_path / "resumed", lora=lora, save_steps=1, resume=resume), whole)


@pytest.mark.parametrize(("family", "lora"), [("llava", False), ("qwen2_5_vl", True), ("text", False)])
def test_the_best_weights_are_those_that_are_left(
    family: str, lora: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """And not the last ones, which transformers leaves where a file names tensors otherwise than the model does."""
    model = tiny_model(family)
    records = [
        image_records(tmp_path, 4, first) if family in IMAGE_FAMILIES else text_records(4, first) for first in (0, 4)
    ]
    found = trained(
        model,
        load_cache(make_cache(tmp_path, model, *records)),
        tmp_path / "run",
        lora=lora,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="num_tokens",  # never fewer than before: the first stays the best
        greater_is_better=False,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
    )
    left = {name: value.clone() for name, value in found.model.state_dict().items()}
    changed = {}
    for step in (1, 3):
        found._load_from_checkpoint(str(tmp_path / "run" / f"checkpoint-{step}"))
        changed[step] = [name for name, value in found.model.state_dict().items() if not torch.equal(value, left[name])]
    assert changed[1] == []
    assert changed[3]


def test_a_metric_that_no_evaluation_measures_is_told_with_those_that_are(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("text")
    cache = load_cache(make_cache(tmp_path, model, text_records(4), text_records(4, first=50)))
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    with pytest.raises(ConfigError, match="metric_for_best_model is f1, which no evaluation measures") as raised:
        trained(model, cache, tmp_path / "run", lora=False, metric_for_best_model="f1", **settings)
    assert "eval_loss" in raised.value.hint.split(", ")


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (4, {}),
        (5, {"dataloader_num_workers": 1}),
        (3, {"gradient_accumulation_steps": 2}),
        (5, {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}),
    ],
    ids=["between epochs", "with workers", "with accumulation", "with evaluation"],
)
def test_what_was_added_up_between_two_logs_is_gone_on_with(
    step: int, settings: dict[str, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("text")
    cache = load_cache(make_cache(tmp_path, model, text_records(12), text_records(4, first=50)))
    settings = {"num_train_epochs": 2, "logging_steps": 3, "save_steps": step, **settings}
    whole = trained(model, cache, tmp_path / "whole", lora=True, **settings)
    resume = tmp_path / "whole" / f"checkpoint-{step}"
    assert_same_run(trained(model, cache, tmp_path / "resumed", lora=True, resume=resume, **settings), whole)


def test_a_checkpoint_is_not_lost_to_a_model_card(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it fails with: here a tag is no list of them."""
    cache = drawn_cache("text", tiny_model("text"), tmp_path, 6)
    args = make_args(tmp_path / "run", save_strategy="steps", save_steps=1, max_steps=1)
    trainer = CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=args)
    trainer._tag_names = None
    trainer.train()
    assert flaw(tmp_path / "run" / "checkpoint-1") == ""
    assert "the model card could not be written: 'NoneType' object is not iterable" in caplog.text

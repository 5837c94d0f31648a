"""Settings that TRL hands on as they are are refused before any weight is read, and not by a traceback after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from caches import make_cache, text_records
from conftest import TinyModel
from test_loss_equality import make_args
from transformers.trainer_utils import SchedulerType

from kto_data.errors import ConfigError
from kto_train import CachedKTOTrainer, load_cache
from kto_train.trials import try_settings, unused_settings

NUM_STEPS = 250
NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 50},
}
"""What some schedules must be told."""


@pytest.mark.parametrize(
    ("kto", "told"),
    [
        ({"lr_scheduler_kwargs": {"nonsense": 1}}, "lr_scheduler_kwargs, of linear: .* argument 'nonsense'"),
        ({"lr_scheduler_kwargs": "nonsense"}, "lr_scheduler_kwargs, of linear: .* must be a mapping, not str"),
        (
            {"lr_scheduler_type": "warmup_stable_decay"},
            "of warmup_stable_decay: .*num_decay_steps",
        ),
        (
            {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": "many"}},
            "lr_scheduler_kwargs, of cosine_with_restarts: .*'many'",
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 5.0}},
            "lr_scheduler_kwargs, of polynomial: lr_end",
        ),
        (
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "lr_scheduler_kwargs, of constant_with_warmup: there is nothing to set",
        ),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim_args, of sgd: .*'much'"),
        ({"optim": "grokadamw"}, "optim, of grokadamw: .*install"),
        ({"gradient_checkpointing_kwargs": {"nonsense": 1}}, "gradient_checkpointing_kwargs: .*nonsense"),
        ({"gradient_checkpointing_kwargs": "nonsense"}, "gradient_checkpointing_kwargs must be a mapping"),
        (
            {"gradient_checkpointing_kwargs": {"every_n_layers": 0}},
            r"gradient_checkpointing_kwargs\.every_n_layers must be a whole number of at least 1, not 0",
        ),
        (
            {"gradient_checkpointing_kwargs": {"offload": "yes"}},
            r"gradient_checkpointing_kwargs\.offload must be true or false, not 'yes'",
        ),
        ({"dataloader_persistent_workers": True}, "data workers do not go together: persistent_workers"),
        ({"dataloader_multiprocessing_context": "spawn"}, "data workers do not go together: multiprocessing_context"),
        ({"torch_compile": True, "torch_compile_mode": "nonsense"}, r"torch_compile_mode: .*nonsense"),
        ({"torch_compile": True, "torch_compile_backend": "nonsense"}, r"torch_compile_backend: .*nonsense"),
        ({"log_level": "loud"}, "log_level: transformers has no level 'loud'"),
        ({"accelerator_config": {"even_batches": 7}}, r"accelerator_config\.even_batches must be bool, not 7"),
        (
            {"accelerator_config": {"split_batches": True}},
            r"accelerator_config\.split_batches would cut up",
        ),
        (
            {"accelerator_config": {"dispatch_batches": True}},
            r"accelerator_config\.dispatch_batches would cut up",
        ),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each": True}}},
            r"^unknown key kto\.accelerator_config\.gradient_accumulation_kwargs\.sync_each; did you mean",
        ),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
            r"accelerator_config\.gradient_accumulation_kwargs\.num_steps is decided elsewhere",
        ),
    ],
)
def test_a_setting_that_would_fail_once_the_model_is_there_is_refused_by_name(
    kto: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        try_settings(make_args(tmp_path, **kto), NUM_STEPS)
    assert "kto" in raised.value.what
    assert "\n" not in raised.value.what


def test_a_file_of_accelerator_settings_is_looked_at_too(tmp_path: Path) -> None:
    file = tmp_path / "accelerator.json"
    file.write_text('{"split_batches": true}')
    with pytest.raises(ConfigError, match=r"^kto\.accelerator_config\.split_batches would cut up"):
        try_settings(make_args(tmp_path, accelerator_config=str(file)), NUM_STEPS)


@pytest.mark.parametrize("kind", list(SchedulerType))
def test_every_schedule_passes_with_what_it_must_be_told(kind: SchedulerType, tmp_path: Path) -> None:
    settings = {"lr_scheduler_kwargs": NEEDED.get(kind.value), "eval_strategy": "epoch", "warmup_steps": 10}
    try_settings(make_args(tmp_path, lr_scheduler_type=kind.value, **settings), NUM_STEPS)


@pytest.mark.parametrize(
    "kto",
    [
        {},
        {"optim": "adafactor"},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"},
        {"optim": "galore_adamw", "optim_args": "rank=64"},
        {"gradient_checkpointing_kwargs": {"use_reentrant": False, "every_n_layers": 2, "offload": False}},
        {"accelerator_config": {"even_batches": False, "gradient_accumulation_kwargs": {"sync_each_batch": True}}},
    ],
)
def test_good_settings_pass_and_are_left_as_they_are(kto: dict[str, Any], tmp_path: Path) -> None:
    args = make_args(tmp_path, **kto)
    before = args.to_dict()
    try_settings(args, num_steps=1)
    assert list(unused_settings(args)) == []
    assert args.to_dict() == before


def test_an_argument_that_changes_nothing_of_the_optimizer_is_told(tmp_path: Path) -> None:
    assert list(unused_settings(make_args(tmp_path, optim="adamw_torch", optim_args="momentum=0.9"))) == [
        "kto.optim_args: momentum=0.9 changes nothing of adamw_torch"
    ]
    assert list(unused_settings(make_args(tmp_path, optim="sgd", optim_args="momentum=0.9, beta1=0.5"))) == [
        "kto.optim_args: beta1=0.5 changes nothing of sgd"
    ]


def test_data_workers_are_started_as_the_settings_say(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4)))
    args = make_args(tmp_path, dataloader_num_workers=1, dataloader_multiprocessing_context="spawn")
    trainer = CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=args)
    assert trainer.get_train_dataloader().multiprocessing_context.get_start_method() == "spawn"

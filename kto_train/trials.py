"""Settings that TRL hands on as they are, tried out on next to nothing before any weight is read.

What a schedule, an optimizer or a checkpointed layer takes depends on which one it is: each is asked itself.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import KTOConfig

from kto_data.errors import ConfigError, first_line
from kto_train.config import check_fields
from kto_train.groups import worker_settings

_ACCELERATOR = "kto.accelerator_config"
_CHECKPOINTING = "kto.gradient_checkpointing_kwargs"
_WITHOUT_SETTINGS = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)
_MADE_OF_A_MODEL = ("galore", "apollo", "lomo")
"""Optimizers that are built around the layers of the model, which is not there yet."""
_TRIED_STEPS = 100


def try_settings(args: KTOConfig, num_steps: int) -> None:
    """Raises `ConfigError` for settings that a training of so many steps would fail with once the model is there."""
    _check_accelerator(args.accelerator_config)
    _try_checkpointing(args.gradient_checkpointing_kwargs or {})
    _try_schedule(args, num_steps)
    _try_optimizer(args)
    _try_loader(args)
    _try_compiler(args)
    try:
        args.get_process_log_level()
    except KeyError as error:
        raise ConfigError(f"kto.log_level: transformers has no level {error}") from None


def unused_settings(args: KTOConfig) -> Iterator[str]:
    """What is set in `optim_args` and changes nothing: transformers reads what it knows, and is silent on the rest."""
    if not args.optim_args or _is_made_of_a_model(args):
        return
    _, expected = Trainer.get_optimizer_cls_and_kwargs(args)
    given = args.optim_args.split(",")
    for setting in given:
        without = copy.copy(args)
        without.optim_args = ",".join(other for other in given if other is not setting)
        if Trainer.get_optimizer_cls_and_kwargs(without)[1] == expected:
            yield f"kto.optim_args: {setting.strip()} changes nothing of {_optimizer(args)}"


def _check_accelerator(given: AcceleratorConfig) -> None:
    """As it is in the end: it may have been a file."""
    check_fields(vars(given), AcceleratorConfig, _ACCELERATOR)
    for key in ("split_batches", "dispatch_batches"):
        if getattr(given, key):
            raise ConfigError(
                f"{_ACCELERATOR}.{key} would cut up the KL groups", hint="leave it out: each rank takes whole groups"
            )
    accumulation = given.gradient_accumulation_kwargs or {}
    check_fields(accumulation, GradientAccumulationPlugin, f"{_ACCELERATOR}.gradient_accumulation_kwargs")
    if "num_steps" in accumulation:
        raise ConfigError(
            f"{_ACCELERATOR}.gradient_accumulation_kwargs.num_steps is decided elsewhere",
            hint="set `kto.gradient_accumulation_steps`",
        )


def _try_checkpointing(given: Any) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"{_CHECKPOINTING} must be a mapping, not {given!r}")
    given = dict(given)
    every = given.pop("every_n_layers", 1)  # these two are for transformers, the others for torch
    if type(every) is not int or every < 1:
        raise ConfigError(f"{_CHECKPOINTING}.every_n_layers must be a whole number of at least 1, not {every!r}")
    offload = given.pop("offload", False)
    if type(offload) is not bool:
        raise ConfigError(f"{_CHECKPOINTING}.offload must be true or false, not {offload!r}")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch wishes that `use_reentrant` were given
            checkpoint(torch.neg, torch.ones(1, requires_grad=True), **given)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{_CHECKPOINTING}: {first_line(error)}") from None


def _try_schedule(args: KTOConfig, num_steps: int) -> None:
    kind, given = SchedulerType(args.lr_scheduler_type), args.lr_scheduler_kwargs
    within = f"kto.lr_scheduler_kwargs, of {kind.value}"
    if given and kind in _WITHOUT_SETTINGS:
        raise ConfigError(f"{within}: there is nothing to set", hint="leave it out")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        schedule = get_scheduler(kind, optimizer, args.get_warmup_steps(num_steps), num_steps, given)
        for factor in getattr(schedule, "lr_lambdas", ()):
            for step in range(0, num_steps, math.ceil(num_steps / _TRIED_STEPS)):
                float(factor(step))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"{within}: {first_line(error)}") from None


def _try_optimizer(args: KTOConfig) -> None:
    if _is_made_of_a_model(args):
        return
    try:
        make, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        make([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        within = f"kto.{'optim_args' if args.optim_args else 'optim'}, of {_optimizer(args)}"
        raise ConfigError(f"{within}: {first_line(error)}") from None


def _try_loader(args: KTOConfig) -> None:
    try:
        DataLoader(TensorDataset(torch.zeros(1)), **worker_settings(args))
    except ValueError as error:
        raise ConfigError(f"kto: the settings of the data workers do not go together: {first_line(error)}") from None


def _try_compiler(args: KTOConfig) -> None:
    if not args.torch_compile:
        return
    backend = args.torch_compile_backend or "inductor"
    for key, mode in (("torch_compile_backend", None), ("torch_compile_mode", args.torch_compile_mode)):
        try:
            torch.compile(torch.neg, backend=backend, mode=mode)
        except RuntimeError as error:
            raise ConfigError(f"kto.{key}: {first_line(error)}") from None


def _optimizer(args: KTOConfig) -> str:
    return str(OptimizerNames(args.optim).value)


def _is_made_of_a_model(args: KTOConfig) -> bool:
    return any(name in _optimizer(args) for name in _MADE_OF_A_MODEL)

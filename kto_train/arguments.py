"""The settings of a training as TRL takes them: `TrainConfig` to `KTOConfig`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import KTOConfig

from kto_data.balance import AdmissibleWeights
from kto_data.errors import ConfigError
from kto_train.bounds import value_problems
from kto_train.checks import deepspeed_file
from kto_train.config import TrainConfig, check_fields

_BETAS = ("adam_beta1", "adam_beta2")  # of which torch takes no integer, such as 0


def check_library_fields(config: TrainConfig) -> None:
    """Raises `ConfigError` for a key under `kto` or `lora` that TRL or peft does not know, and for a value that is of a
    wrong type or makes no training."""
    from peft import LoraConfig

    check_fields(config.kto, KTOConfig, "kto")
    for problem in value_problems(config.kto):
        raise ConfigError(problem.message, hint=problem.hint)
    _check_model_settings(config.kto.get("model_init_kwargs") or {})
    if isinstance(config.kto.get("accelerator_config"), dict):  # else a file, which transformers reads
        check_fields(config.kto["accelerator_config"], AcceleratorConfig, "kto.accelerator_config")
    if config.lora is not None:
        check_fields(config.lora, LoraConfig, "lora")


def _check_model_settings(given: Any) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"kto.model_init_kwargs must be a mapping, not {given!r}")
    dtype = given.get("dtype", "auto")
    if dtype != "auto" and not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ConfigError(
            f"kto.model_init_kwargs.dtype: torch has no type {dtype!r}", hint="bfloat16, float16, float32, or auto"
        )


def kto_config(config: TrainConfig, balance: AdmissibleWeights, *, has_images: bool) -> KTOConfig:
    """What TRL's trainer is told. Raises `ConfigError` where it refuses it, and for what only a device can do."""
    settings: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "logging_nan_inf_filter": False}
    if not torch.accelerator.is_available():
        _refuse_without_a_device(config.kto)
        # With `use_cpu`, transformers would not start DeepSpeed.
        settings |= {"use_cpu": config.deepspeed is None, "bf16": False}
        _meet_without_a_device(config.kto.get("ddp_timeout", KTOConfig.ddp_timeout), config.kto.get("ddp_backend"))
    if has_images:
        settings["dataloader_num_workers"] = max(1, min(4, (os.cpu_count() or 1) // 2))
    settings |= config.kto
    settings |= {name: float(settings[name]) for name in _BETAS if name in settings}
    settings |= {
        "output_dir": config.output_dir,
        "seed": config.seed,
        "trust_remote_code": config.trust_remote_code,
        "max_length": None,
        "desirable_weight": balance.desirable_weight,
        "undesirable_weight": balance.undesirable_weight,
        "precompute_ref_log_probs": config.reference == "cached",
        # A pickle runs what it says when it is read.
        "model_init_kwargs": {**(config.kto.get("model_init_kwargs") or {}), "use_safetensors": True},
    }
    if config.deepspeed is not None:
        settings["deepspeed"] = str(deepspeed_file(config.deepspeed))
        if not torch.accelerator.is_available():
            settings["accelerator_config"] = {"use_configured_state": True}
            _start_deepspeed_without_a_device()
    try:
        return KTOConfig(**settings)
    except OSError as error:  # of a file that is named in place of its settings
        raise ConfigError(f"kto: {error.filename}: {error.strerror}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"kto: {' '.join(str(error).split())}") from None


def _refuse_without_a_device(kto: dict[str, Any]) -> None:
    if kto.get("fsdp"):
        raise ConfigError(
            "kto.fsdp spreads the weights over devices, and this machine has none: all would be on each process",
            hint="deepspeed: z3 spreads them over processes too",
        )
    if kto.get("activation_offloading"):
        raise ConfigError(
            "kto.activation_offloading takes activations from a device to the processor, and this machine has none",
            hint="leave it out; gradient_checkpointing needs less memory anywhere",
        )


def _meet_without_a_device(seconds: int, backend: str | None) -> None:
    """Let the processes of a run on processors find each other within that time, which transformers heeds on devices
    alone."""
    is_one_of_several = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if is_one_of_several and backend in (None, "gloo") and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=seconds))


def _start_deepspeed_without_a_device() -> None:
    """DeepSpeed on processors alone, for a rehearsal: accelerate starts it on devices, and gloo for plain runs."""
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    state = PartialState(cpu=True, backend="gloo")
    state.distributed_type = DistributedType.DEEPSPEED

"""What the fields of `KTOConfig` may hold, where TRL and transformers take anything and fail, or train nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kto_data.training import NO_KL_LOSS, Problem

_LOSSES = ("kto", NO_KL_LOSS)
_AT_LEAST: dict[str, int] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "pad_to_multiple_of": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "weight_decay": 0,
    "neftune_noise_alpha": 0,
    "ref_model_sync_steps": 1,
    "ddp_timeout": 1,
}
_OPTIM_ARGS = re.compile(r"[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*")
_ABOVE_ZERO = ("learning_rate", "beta", "num_train_epochs")
MEASURED = (
    *("loss", "aux_loss", "kl", "entropy", "num_tokens"),
    *(f"{what}/{label}" for what in ("rewards", "logps", "logits") for label in ("chosen", "rejected")),
    *("rewards/margins", "runtime", "samples_per_second", "steps_per_second"),
)
"""What TRL's evaluation measures, by the names that it logs with `eval_` before them."""


def value_problems(kto: Mapping[str, Any]) -> Iterator[Problem]:
    """The values of `kto` that no training can be made with. One of a wrong type is somebody else's to find."""
    for key, least in _AT_LEAST.items():
        if _is_number(kto.get(key)) and not kto[key] >= least:  # which no NaN is
            yield _problem(key, f"at least {least}", kto[key])
    for key in _ABOVE_ZERO:
        if _is_number(kto.get(key)) and not (math.isfinite(kto[key]) and kto[key] > 0):
            yield _problem(key, "a number above 0", kto[key])
    if _is_number(kto.get("max_steps")) and kto["max_steps"] < 1 and kto["max_steps"] != -1:
        yield _problem("max_steps", "at least 1, or -1 for whole epochs", kto["max_steps"])
    if isinstance(kto.get("loss_type"), str) and kto["loss_type"] not in _LOSSES:
        yield _problem("loss_type", " or ".join(_LOSSES), kto["loss_type"])
    yield from _metric_problems(kto)
    if kto.get("optim_args") and not _OPTIM_ARGS.fullmatch(str(kto["optim_args"])):
        yield _problem("optim_args", "name=value, with commas between", kto["optim_args"])


def _metric_problems(kto: Mapping[str, Any]) -> Iterator[Problem]:
    """What the best model is to be known by, which transformers looks for at the first evaluation."""
    key, name = "kto.metric_for_best_model", kto.get("metric_for_best_model")
    if isinstance(name, str) and name.removeprefix("eval_") not in MEASURED:
        yield Problem(key, f"{key} is {name}, which no evaluation measures", f"one of {', '.join(MEASURED)}")
    if name is None and kto.get("save_strategy") == "best" and not kto.get("load_best_model_at_end"):
        yield Problem(key, f"kto.save_strategy is best, and no {key} says by what", f"{key}: loss, say")


def _problem(key: str, allowed: str, value: object) -> Problem:
    return Problem(f"kto.{key}", f"kto.{key} must be {allowed}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""How the weights are trained: which of them, packed how, spread over what."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from kto_data.errors import ConfigError, first_line
from kto_train.config import TrainConfig, field_problems

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

_TOLD_PARTS = 8  # names of a model's parts that a message lists


def lora_config(config: TrainConfig) -> LoraConfig | None:
    """The adapter that is trained; None where the weights themselves are. What is frozen gets no adapter."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    settings = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", **config.lora}
    if config.freeze:
        settings.setdefault("exclude_modules", f".*({'|'.join(config.freeze)}).*")
    try:
        return LoraConfig(**settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora: {first_line(error)}") from None


def quantization_config(config: TrainConfig) -> BitsAndBytesConfig | None:
    """How the weights below an adapter are packed; None where they are not.

    Raises `ConfigError`, also for what transformers takes in silence: a field it does not know, and no number of bits.
    """
    if config.quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    named = inspect.signature(BitsAndBytesConfig).parameters.values()
    names = [parameter.name for parameter in named if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    for problem in field_problems(config.quantization, names, BitsAndBytesConfig.__name__, "quantization"):
        raise ConfigError(problem.message, hint=problem.hint)
    try:
        found = BitsAndBytesConfig(**config.quantization)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"quantization: {first_line(error)}") from None
    if not (found.load_in_4bit or found.load_in_8bit):
        raise ConfigError(
            "quantization asks for neither 4 nor 8 bits: nothing would be packed",
            hint="quantization.load_in_4bit: true",
        )
    return found


def prepare_to_score(model: torch.nn.Module) -> None:
    """Evaluation mode, all but quantized layers.

    For those that are not trained, bitsandbytes has other kernels on a processor: their log-probabilities would be
    apart from those of a step by more than rounding, and packed for them a weight has no gradient any more.
    """
    model.eval()
    for layer in model.modules():
        if type(layer).__module__.startswith("bitsandbytes."):
            layer.train()


def freeze_weights(model: torch.nn.Module, patterns: Iterable[str]) -> None:
    """Leave weights out of the training by regular expressions that are found in their names.

    Raises `ConfigError` for a pattern that is found in no name: what was to be frozen would be trained in silence.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            parts = sorted({re.sub(r"\.(\d+|weight|bias)\b.*", "", name) for name in names})
            raise ConfigError(
                f"freeze: {pattern!r} is found in no name of the model's weights",
                hint=f"they begin with {', '.join(parts[:_TOLD_PARTS])}",
            )
    for name, weight in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            weight.requires_grad_(False)

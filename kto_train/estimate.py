"""What a training holds on one device, by part, for one setup and the largest batch.

Nothing is measured and no weight is read: weights, gradients and the optimizer's states are counted, activations are
those that `footprint` finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from kto_train.footprint import BatchShape, Weights, count_adapter, count_kept, count_weights

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import KTOConfig

ACTIVATION_ERROR = 0.3
"""Share by which activations may be off, either way."""

COUNT_ERROR = 0.02
"""Share by which weights, gradients and the optimizer's states may be off; under ZeRO-3 and FSDP weights are a bound,
which counts those that are gathered while they compute."""

_STATE_TENSORS = {"sgd": 0, "adafactor": 0, "lion": 1, "rmsprop": 1, "adagrad": 1}
"""Tensors as large as the weights that an optimizer keeps, by how its name begins; Adam's kind keeps two."""
FOUR_BITS = 0.5 + 4 / 64  # bytes of a weight: half of one, and a scale of four for 64 of them
_FOUR_BITS_TWICE = 0.5 + (1 + 4 / 256) / 64  # the same where scales are quantized too
_EIGHT_BITS = 1.0
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32_768  # TRL scores so many logits at a time
_GATHERED_LAYERS = 2  # that ZeRO-3 and FSDP hold whole: the one that computes, and the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Bytes on one device."""

    weights: float = 0
    gradients: float = 0
    optimizer: float = 0
    reference: float = 0
    activations: float = 0
    logits: float = 0
    pixels: float = 0

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return float(sum(getattr(self, part.name) for part in fields(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What decides how much is held, the model and the batch apart."""

    adapter: LoraConfig | None
    packed_bytes: float  # of a weight of a linear layer that is quantized; 0 where none is
    is_reference_live: bool
    zero_stage: int  # of DeepSpeed; 0 without it
    is_fsdp: bool
    is_offloaded: bool
    num_devices: int
    optimizer: str  # by transformers' name
    dtype: torch.dtype  # of the weights
    read_as: torch.dtype  # their type where they are not trained
    compute_dtype: torch.dtype
    checkpointing: bool

    @classmethod
    def of(
        cls, args: KTOConfig, config: Any, adapter: LoraConfig | None, packing: BitsAndBytesConfig | None = None
    ) -> Setup:
        """The setup that `args` asks for, of a model with transformers' `config`."""
        asked = (args.model_init_kwargs or {}).get("dtype", "float32")  # TRL's default
        dtype = config.dtype if asked == "auto" else asked
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        plugin, read_as = args.deepspeed_plugin, dtype or torch.float32
        # With FSDP, accelerate keeps what is trained in full where it computes in half.
        is_kept_in_full = args.fsdp and (args.bf16 or args.fp16) and adapter is None
        offloads = plugin is not None and plugin.offload_optimizer_device not in (None, "none")
        return cls(
            adapter=adapter,
            packed_bytes=0 if packing is None else _packed_bytes(packing),
            is_reference_live=not args.precompute_ref_log_probs,
            zero_stage=0 if plugin is None else plugin.zero_stage,
            is_fsdp=bool(args.fsdp),
            is_offloaded=offloads or bool(args.fsdp and args.fsdp_config.get("cpu_offload")),
            num_devices=args.world_size,
            optimizer=str(getattr(args.optim, "value", args.optim)),
            dtype=torch.float32 if is_kept_in_full else read_as,
            read_as=read_as,
            compute_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else read_as,
            checkpointing=args.gradient_checkpointing,
        )

    @property
    def adapter_dtype(self) -> torch.dtype:
        """What an adapter is trained in: in full by peft, and by TRL in half above quantized weights."""
        return torch.bfloat16 if self.packed_bytes else torch.float32


class Estimator:
    """Estimates for one model, whose weights are counted once."""

    def __init__(self, config: Any, freeze: Iterable[str] = ()) -> None:
        self.config = config
        self._freeze = tuple(freeze)

    @cached_property
    def weights(self) -> Weights:
        """The weights of the model."""
        return count_weights(self.config, self._freeze)

    def estimate(self, batch: BatchShape, setup: Setup) -> Parts:
        """Bytes on one device. Raises `ModelError` where the architecture is not known or cannot be run on shapes."""
        kept = count_kept(
            self.config,
            batch,
            dtype=setup.dtype,
            compute_dtype=setup.compute_dtype,
            checkpointing=setup.checkpointing,
        )
        held = self._weight_bytes(setup)
        adapter = None if setup.adapter is None else count_adapter(self.config, setup.adapter)
        trained = adapter or self.weights
        # transformers makes a frozen tower's input need a gradient, where it computes layers again below an adapter.
        keeps_vision = trained.trains_vision or (setup.checkpointing and adapter is not None)
        text = self.config.get_text_config()
        tile = min(batch.rows * batch.tokens, _TILE_TOKENS) * min(text.vocab_size, _TILE_VOCABULARY)
        parts = Parts(
            weights=held + (adapter.trained * setup.adapter_dtype.itemsize if adapter else 0),
            reference=self._reference_bytes(setup),
            activations=kept.total if keeps_vision else kept.total - kept.vision,
            logits=tile * setup.compute_dtype.itemsize,
            pixels=batch.pixel_bytes,
        )
        return self._with_states(parts, setup, trained.trained)

    def _reference_bytes(self, setup: Setup) -> float:
        if not setup.is_reference_live or setup.adapter is not None:
            return 0
        return self._weight_bytes(replace(setup, dtype=setup.read_as))

    def _weight_bytes(self, setup: Setup) -> float:
        linear = self.weights.linear if setup.packed_bytes else 0
        # With DeepSpeed the weights are of the type it computes in, and the optimizer keeps them in full.
        dtype = setup.compute_dtype if setup.zero_stage else setup.dtype
        return linear * setup.packed_bytes + (self.weights.total - linear) * dtype.itemsize

    def _with_states(self, parts: Parts, setup: Setup, trained: int) -> Parts:
        dtype = setup.dtype if setup.adapter is None else setup.adapter_dtype
        share = 0 if setup.is_offloaded else 1 / setup.num_devices
        if not setup.zero_stage:
            parts = replace(
                parts,
                gradients=trained * dtype.itemsize,
                optimizer=trained * _state_bytes(setup.optimizer, dtype.itemsize),
            )
            return self._spread(parts, setup, share) if setup.is_fsdp else parts
        master = torch.float32.itemsize
        parts = replace(
            parts,
            gradients=trained * setup.compute_dtype.itemsize * share,
            optimizer=trained * (master + _state_bytes(setup.optimizer, master)) * share,
        )
        return parts if setup.zero_stage < 3 else self._gathered(parts, setup, share)

    def _spread(self, parts: Parts, setup: Setup, share: float) -> Parts:
        """With FSDP; a reference model is one unit, which is whole while it computes."""
        spread = replace(parts, gradients=parts.gradients * share, optimizer=parts.optimizer * share)
        return replace(self._gathered(spread, setup, share), reference=parts.reference)

    def _gathered(self, parts: Parts, setup: Setup, share: float) -> Parts:
        """With weights in pieces, and as many of them whole as compute at one time."""
        layers = self.config.get_text_config().num_hidden_layers
        whole = self.weights.largest_layer + _GATHERED_LAYERS * self.weights.linear / layers
        if setup.is_fsdp:
            whole += self.weights.head
        gathered = whole * setup.compute_dtype.itemsize
        return replace(
            parts,
            weights=min(parts.weights, parts.weights * share + gathered),
            reference=min(parts.reference, parts.reference * share + gathered) if parts.reference else 0,
        )


def _packed_bytes(packing: BitsAndBytesConfig) -> float:
    if packing.load_in_8bit:
        return _EIGHT_BITS
    return _FOUR_BITS_TWICE if packing.bnb_4bit_use_double_quant else FOUR_BITS


def _state_bytes(optimizer: str, itemsize: int) -> float:
    """Bytes that an optimizer keeps of each weight that is trained."""
    name = optimizer.removeprefix("paged_").removeprefix("bnb_")
    num_tensors = next((num for start, num in _STATE_TENSORS.items() if name.startswith(start)), 2)
    return num_tensors * (1 if "8bit" in name else itemsize)

"""What a training will need of a device's memory, by part, and what it would need if it were set up otherwise.

Nothing is measured and no weight is read: weights, gradients and the optimizer's states are counted, activations are
those of the largest batch (`footprint`). The table says what the estimate leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from kto_data.errors import ModelError
from kto_data.paths import TRAIN
from kto_train.collate import CachedCollator
from kto_train.columns import INPUT_IDS, KL_PREFIX, SEQUENCE_KEYS, TOKEN_TYPE_KEYS
from kto_train.dataset import Cache, read_rows
from kto_train.footprint import BatchShape, Weights, count_adapter, count_kept, count_weights
from kto_train.libraries import quiet_libraries
from kto_train.strategy import lora_config, quantization_config

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import KTOConfig

    from kto_data.processor import Processor
    from kto_train.groups import Groups
    from kto_train.plan import Plan

ACTIVATION_ERROR = 0.3
"""Share by which activations may be off, either way."""

COUNT_ERROR = 0.02
"""Share by which weights, gradients and the optimizer's states may be off; under ZeRO-3 weights are a bound, which
counts those that are gathered while they compute."""

_STATE_TENSORS = {"sgd": 0, "adafactor": 0, "lion": 1, "rmsprop": 1, "adagrad": 1}
"""Tensors as large as the weights that an optimizer keeps, by how its name begins; Adam's kind keeps two."""
_USUAL_LORA = {"r": 16}
_FOUR_BITS = 0.5 + 4 / 64  # bytes of a weight: half of one, and a scale of four for 64 of them
_FOUR_BITS_TWICE = 0.5 + (1 + 4 / 256) / 64  # the same where scales are quantized too
_EIGHT_BITS = 1.0
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32_768  # TRL scores so many logits at a time
_GATHERED_LAYERS = 2  # that ZeRO-3 holds whole: the one that computes, and the next


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
    is_offloaded: bool
    num_devices: int
    optimizer: str  # by transformers' name
    dtype: torch.dtype  # of the weights
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
        plugin = args.deepspeed_plugin
        return cls(
            adapter=adapter,
            packed_bytes=0 if packing is None else _packed_bytes(packing),
            is_reference_live=not args.precompute_ref_log_probs,
            zero_stage=0 if plugin is None else plugin.zero_stage,
            is_offloaded=plugin is not None and plugin.offload_optimizer_device not in (None, "none"),
            num_devices=args.world_size,
            optimizer=str(getattr(args.optim, "value", args.optim)),
            dtype=dtype or torch.float32,
            compute_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else dtype,
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
        adapter = 0 if setup.adapter is None else count_adapter(self.config, setup.adapter)
        trained = self.weights.trained if setup.adapter is None else adapter
        text = self.config.get_text_config()
        tile = min(batch.rows * batch.tokens, _TILE_TOKENS) * min(text.vocab_size, _TILE_VOCABULARY)
        parts = Parts(
            weights=held + adapter * setup.adapter_dtype.itemsize,
            reference=held if setup.is_reference_live and setup.adapter is None else 0,
            activations=kept.total,
            logits=tile * setup.compute_dtype.itemsize,
            pixels=batch.pixel_bytes,
        )
        return self._with_states(parts, setup, trained)

    def _weight_bytes(self, setup: Setup) -> float:
        linear = self.weights.linear if setup.packed_bytes else 0
        # With DeepSpeed the weights are of the type it computes in, and the optimizer keeps them in full.
        dtype = setup.compute_dtype if setup.zero_stage else setup.dtype
        return linear * setup.packed_bytes + (self.weights.total - linear) * dtype.itemsize

    def _with_states(self, parts: Parts, setup: Setup, trained: int) -> Parts:
        dtype = setup.dtype if setup.adapter is None else setup.adapter_dtype
        if not setup.zero_stage:
            return replace(
                parts,
                gradients=trained * dtype.itemsize,
                optimizer=trained * _state_bytes(setup.optimizer, dtype.itemsize),
            )
        share = 0 if setup.is_offloaded else 1 / setup.num_devices
        master = torch.float32.itemsize
        parts = replace(
            parts,
            gradients=trained * setup.compute_dtype.itemsize * share,
            optimizer=trained * (master + _state_bytes(setup.optimizer, master)) * share,
        )
        if setup.zero_stage < 3:
            return parts
        layers = self.config.get_text_config().num_hidden_layers
        gathered = (self.weights.largest_layer + _GATHERED_LAYERS * self.weights.linear / layers) * (
            setup.compute_dtype.itemsize
        )
        return replace(
            parts,
            weights=min(parts.weights, parts.weights * share + gathered),
            reference=min(parts.reference, parts.reference * share + gathered) if parts.reference else 0,
        )


def _packed_bytes(packing: BitsAndBytesConfig) -> float:
    if packing.load_in_8bit:
        return _EIGHT_BITS
    return _FOUR_BITS_TWICE if packing.bnb_4bit_use_double_quant else _FOUR_BITS


def _state_bytes(optimizer: str, itemsize: int) -> float:
    """Bytes that an optimizer keeps of each weight that is trained."""
    name = optimizer.removeprefix("paged_").removeprefix("bnb_")
    num_tensors = next((num for start, num in _STATE_TENSORS.items() if name.startswith(start)), 2)
    return num_tensors * (1 if "8bit" in name else itemsize)


def memory_lines(plan: Plan) -> Iterator[str]:
    """The table of a plan; one line that says why where there is none."""
    config = plan.config
    adapter = lora_config(config.model_copy(update={"lora": config.lora or _USUAL_LORA}))
    assert adapter is not None
    try:
        with quiet_libraries():
            architecture = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
            lines = list(
                memory_table(
                    Estimator(architecture, config.freeze),
                    largest_batch(plan.cache, plan.groups, plan.processor, architecture),
                    Setup.of(plan.args, architecture, lora_config(config), quantization_config(config)),
                    lora=adapter,
                )
            )
    except ModelError as error:  # what only the estimate needs must not stop a dry run
        lines = [f"memory     no estimate: {error.what}"]
    yield from lines


def memory_table(estimator: Estimator, batch: BatchShape, setup: Setup, *, lora: LoraConfig) -> Iterator[str]:
    """The estimate of a training as aligned text, under it what other setups would need, `lora` among them.

    Raises `ModelError` where the architecture is not known.
    """
    names = [*(part.name for part in fields(Parts)), "total"]
    widths = [max(8, len(name) + 1) for name in names]
    images = f", {batch.patches:,} patches" if batch.patches else ""
    asked = _variants(batch, setup, lora)
    found = [(title, estimator.estimate(of_batch, of_setup)) for title, of_batch, of_setup in asked]
    unit, num_bytes = ("GiB", 2**30) if max(parts.total for _, parts in found) >= 2**30 else ("MiB", 2**20)
    yield f"memory     {unit} a device, estimated for the largest batch: {batch.rows} x {batch.tokens:,} tokens{images}"
    yield f"{'':22}" + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    for title, parts in found:
        numbers = (getattr(parts, name) / num_bytes for name in names)
        yield f"{title:<22}" + "".join(f"{number:>{width}.1f}" for number, width in zip(numbers, widths, strict=True))
    counted = f"weights, gradients, optimizer ± {COUNT_ERROR:.0%}, activations ± {ACTIVATION_ERROR:.0%}"
    yield f"{counted}; not counted: the device's context, gaps"


def _variants(batch: BatchShape, setup: Setup, lora: LoraConfig) -> Iterator[tuple[str, BatchShape, Setup]]:
    yield "this run", batch, setup
    if not (setup.zero_stage == 3 and setup.is_offloaded):
        half = torch.bfloat16 if setup.compute_dtype == torch.float32 else setup.compute_dtype
        yield "ZeRO-3, offloaded", batch, replace(setup, zero_stage=3, is_offloaded=True, compute_dtype=half)
    adapted = replace(setup, adapter=setup.adapter or lora)
    if setup.adapter is None:
        yield f"LoRA, r = {lora.r}", batch, adapted
    if not setup.packed_bytes:
        packed = replace(adapted, packed_bytes=_FOUR_BITS, zero_stage=0)
        yield f"QLoRA, r = {(setup.adapter or lora).r}", batch, packed
    if batch.rows > 3:
        yield "half the batch", _half_the_batch(batch), setup
    if batch.image_tokens:
        yield "half the pixel budget", _half_the_pixels(batch), setup


def _half_the_batch(batch: BatchShape) -> BatchShape:
    return replace(batch, rows=batch.rows // 2, patches=batch.patches // 2, pixel_bytes=batch.pixel_bytes // 2)


def _half_the_pixels(batch: BatchShape) -> BatchShape:
    return replace(
        batch,
        tokens=batch.tokens - batch.image_tokens // 2,
        image_tokens=batch.image_tokens // 2,
        patches=batch.patches // 2,
        pixel_bytes=batch.pixel_bytes // 2,
    )


def largest_batch(cache: Cache, groups: Groups, processor: Processor, config: Any) -> BatchShape:
    """The shape of the group with most tokens; its images are read, as their pixels count."""
    rows = read_rows(cache[TRAIN])
    lengths = rows.prompt_length + rows.completion_length
    largest = max(
        (groups[number] for number in range(len(groups))), key=lambda group: len(group) * lengths[group].max()
    )
    samples = [cache[TRAIN][row] for row in largest]
    collator = CachedCollator(
        processor, image_root=cache.image_root, pack_images=cache.pack_images, max_length=None, with_kl=False
    )
    batch = collator(samples)
    num_rows, tokens = batch[INPUT_IDS].shape
    text = {*SEQUENCE_KEYS, *TOKEN_TYPE_KEYS, "label"}
    pixels = [value for key, value in batch.items() if key not in text and not key.startswith(KL_PREFIX)]
    return BatchShape(
        rows=num_rows,
        tokens=tokens,
        image_tokens=max(sample["num_image_tokens"] for sample in samples),
        patches=_num_patches(batch, config),
        pixel_bytes=sum(value.nbytes for value in pixels),
    )


def _num_patches(batch: dict[str, torch.Tensor], config: Any) -> int:
    """Patches that the vision tower sees; a tile that only pads a row is counted as one that does not."""
    vision = getattr(config, "vision_config", None)
    if vision is None or "pixel_values" not in batch:
        return 0
    side, frames = vision.patch_size, getattr(vision, "temporal_patch_size", 1)
    channels = getattr(vision, "in_channels", getattr(vision, "num_channels", 3))
    return int(batch["pixel_values"].numel() // (side * side * frames * channels))

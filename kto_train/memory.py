"""The table of what a training will need of a device's memory, and what it would need if it were set up otherwise.

The table says what the estimate leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from kto_data.errors import ModelError
from kto_data.paths import TRAIN
from kto_train.collate import CachedCollator
from kto_train.columns import INPUT_IDS, KL_PREFIX, SEQUENCE_KEYS, TOKEN_TYPE_KEYS
from kto_train.dataset import Cache, read_rows
from kto_train.estimate import ACTIVATION_ERROR, COUNT_ERROR, FOUR_BITS, Estimator, Parts, Setup
from kto_train.footprint import BatchShape
from kto_train.libraries import quiet_libraries
from kto_train.strategy import lora_config, quantization_config

if TYPE_CHECKING:
    from peft import LoraConfig

    from kto_data.processor import Processor
    from kto_train.groups import Groups
    from kto_train.plan import Plan

_USUAL_LORA = {"r": 16}


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
        offloaded = replace(setup, zero_stage=3, is_fsdp=False, is_offloaded=True, compute_dtype=half)
        yield "ZeRO-3, offloaded", batch, offloaded
    adapted = replace(setup, adapter=setup.adapter or lora)
    if setup.adapter is None:
        yield f"LoRA, r = {lora.r}", batch, adapted
    if not setup.packed_bytes:
        packed = replace(adapted, packed_bytes=FOUR_BITS, zero_stage=0, is_fsdp=False)
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

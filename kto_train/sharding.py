"""What libraries that spread a model over ranks do otherwise than a plain run, set right.

With FSDP, TRL reads the weights of the language head in the forward of the whole model, and never calls the head.
accelerate gives the head a unit of its own, which is gathered where the head is called. So TRL finds it spread over the
ranks and gathers it itself, and of its gradient each rank keeps the part that its own rows gave (TRL 1.16, accelerate
1.15).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from kto_train.checks import below_adapter


@contextmanager
def units_for_scoring(model: Any, plugin: FullyShardedDataParallelPlugin | None) -> Iterator[None]:
    """While accelerate spreads `model`: its head belongs to the unit of the whole, whose weights are there all along
    its forward. And where the settings do not name the layers that are units of their own, they are those that
    transformers names for the architecture and this model has: for LLaVA it names layers of other vision towers too."""
    if plugin is None:
        yield
        return
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(present.intersection(model._no_split_modules or ()))
    whole = below_adapter(model)
    if _has_tied_head(whole):  # the embeddings are its weights, and they are called
        yield
        return
    whole.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del whole.get_output_embeddings


@contextmanager
def on_device(model: Any, device: torch.device) -> Iterator[Any]:
    """The model, whole on `device` for as long as it is needed there: with FSDP, transformers leaves it where it was
    read. One that is spread already is where it has to be."""
    if isinstance(model, FSDPModule | FullyShardedDataParallel):
        yield model
        return
    found = next(model.parameters()).device
    model.to(device)
    try:
        yield model
    finally:
        model.to(found)


@contextmanager
def states_where_there_are_any() -> Iterator[None]:
    """While accelerate reads an optimizer: torch would refuse one that has no state of a weight that can be trained,
    and of one that no step has given a gradient there is none, as of the last layers of LLaVA's vision tower. That
    nothing else is missing, the list of the checkpoint's files has told."""
    options_of = fsdp_utils._prepare_sd_options

    def lenient(*args: Any) -> Any:
        options = options_of(*args)
        if options is not None:  # which it is for FSDP of the first version
            options.strict = False
        return options

    fsdp_utils._prepare_sd_options = lenient
    try:
        yield
    finally:
        fsdp_utils._prepare_sd_options = options_of


def keep_names_as_read(model: Any) -> None:
    """Let weights be saved by the names that they were read by. transformers applies backwards what it renamed them by,
    and where ZeRO-3 is on it also keeps the renamings that matched nothing: those of Qwen2.5-VL would put a prefix
    before every name (transformers 5.23)."""
    whole = below_adapter(model)
    renamings = getattr(whole, "_weight_conversions", None)
    if renamings is not None:
        whole._weight_conversions = [renaming for renaming in renamings if renaming.was_used()]


def _has_tied_head(model: Any) -> bool:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight

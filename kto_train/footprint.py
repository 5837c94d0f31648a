"""What a model would hold in memory, found without its weights: its architecture is built of tensors without storage.

Shapes are enough: counts of weights are exact, and the language model runs forward on such tensors, which tells what it
would keep for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights
from transformers.integrations import deepspeed

from kto_data.errors import ModelError, first_line
from kto_train.strategy import freeze_weights

if TYPE_CHECKING:
    from peft import LoraConfig

_KEPT_BY_A_PATCH = (
    14  # of a block of a vision tower: tensors as wide as its hidden states, norms and attention together
)
_KEPT_BY_ITS_MLP = 3  # and as wide as its MLP


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """The largest batch of a training."""

    rows: int
    tokens: int  # of its longest row: that of all, padded
    image_tokens: int  # of the row with most of them
    patches: int  # that the vision tower sees
    pixel_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How many weights an architecture has, by what can be done with them."""

    total: int
    trained: int
    linear: int  # of linear layers, the language head left out: what can be quantized
    head: int  # of the language head
    largest_layer: int  # of one module; the embeddings, usually
    trains_vision: bool  # whether some of the vision tower are trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How many weights an adapter adds, all of them trained."""

    trained: int
    trains_vision: bool  # whether some are in the vision tower


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Bytes of what one batch leaves for the backward pass."""

    text: int  # by the language model
    vision: int
    recomputed: int  # by one layer of the language model, while it is computed again; 0 without gradient checkpointing

    @property
    def total(self) -> int:
        """What is there at the worst moment of the backward pass."""
        return self.text + self.vision + self.recomputed


def count_weights(config: Any, freeze: Iterable[str] = ()) -> Weights:
    """The weights of the architecture of a transformers `config`, those that `freeze` is found in not trained.

    Raises `ModelError` where it cannot be built, and `ConfigError` for a pattern that is found in no name.
    """
    model = without_weights(config)
    freeze_weights(model, freeze)
    head = model.get_output_embeddings()
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    return Weights(
        total=sum(weight.numel() for weight in model.parameters()),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        linear=sum(layer.weight.numel() for layer in linear),
        head=0 if head is None else head.weight.numel(),
        largest_layer=max(
            sum(weight.numel() for weight in layer.parameters(recurse=False)) for layer in model.modules()
        ),
        trains_vision=_trains_vision(model, config),
    )


def count_adapter(config: Any, adapter: LoraConfig) -> Adapter:
    """What `adapter` adds to the architecture of `config`. Raises `ModelError` where it does not fit it."""
    model = without_weights(config, adapter)
    return Adapter(
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        trains_vision=_trains_vision(model, config),
    )


def _trains_vision(model: Any, config: Any) -> bool:
    """Whether a weight of the vision tower is trained; where no tower is found, it may be."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return False
    towers = [part for part in model.modules() if type(getattr(part, "config", None)) is type(vision)]
    return not towers or any(weight.requires_grad for tower in towers for weight in tower.parameters())


def without_weights(config: Any, adapter: LoraConfig | None = None) -> Any:
    """The model of a transformers `config`, in `adapter` where there is one: its weights have names and shapes alone.

    Raises `ModelError` where it cannot be built, or the adapter does not fit it.
    """
    with torch.device("meta"):
        model = _build(config)
        if adapter is None:
            return model
        from peft import get_peft_model

        try:
            return get_peft_model(model, adapter)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"the adapter does not fit this model: {first_line(error)}") from None


def count_kept(
    config: Any, batch: BatchShape, *, dtype: torch.dtype, compute_dtype: torch.dtype, checkpointing: bool
) -> Kept:
    """What a batch leaves for the backward pass, all weights of `dtype` being trained.

    Of the language model, what a forward saves; of the vision tower an estimate, as its input is not made of shapes
    alone. Raises `ModelError` where the architecture cannot be run without values.
    """
    with _without_storage():
        model = _build(config, dtype)
        text = _kept_by_text(model, batch, compute_dtype)
        recomputed = 0
        if checkpointing:
            whole = text
            model.gradient_checkpointing_enable()
            text = _kept_by_text(model, batch, compute_dtype)
            recomputed = (whole - text) // config.get_text_config().num_hidden_layers
    vision = _kept_by_vision(config, batch.patches, compute_dtype, checkpointing=checkpointing)
    return Kept(text=text, vision=vision, recomputed=recomputed)


def _build(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    name = (config.architectures or ["none"])[0]
    architecture = getattr(transformers, name, None)
    if architecture is None:
        raise ModelError(f"transformers has no architecture {name}")
    with no_init_weights(), _in_one_piece():
        model = architecture._from_config(config, dtype=dtype)
    model.tie_weights()
    return model


@contextmanager
def _in_one_piece() -> Iterator[None]:
    """Where ZeRO-3 is asked for, transformers would spread what it builds over the ranks: nothing is left to count."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    asked = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if asked is not None:
            deepspeed.set_hf_deepspeed_config(asked)


@contextmanager
def _without_storage() -> Iterator[None]:
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:  # each way not to be run so
        raise ModelError(f"this architecture cannot be run without its weights: {type(error).__name__}") from error


def _kept_by_text(model: Any, batch: BatchShape, compute_dtype: torch.dtype) -> int:
    """Bytes of the tensors that a forward of the language model saves, each storage once, its weights left out."""
    decoder = model.get_decoder()
    decoder.train()
    weights = {weight.untyped_storage()._cdata for weight in decoder.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage  # held, so that its number is not given to another
        return tensor

    width = model.config.get_text_config().hidden_size
    weight_dtype = next(decoder.parameters()).dtype
    embedded = torch.zeros(batch.rows, batch.tokens, width, dtype=weight_dtype, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", compute_dtype, enabled=compute_dtype != weight_dtype),
    ):
        decoder(inputs_embeds=embedded, use_cache=False)
    return sum(storage.nbytes() for storage in saved.values())


def _kept_by_vision(config: Any, patches: int, compute_dtype: torch.dtype, *, checkpointing: bool) -> int:
    vision = getattr(config, "vision_config", None)
    if vision is None or not patches:
        return 0
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or 4 * width
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    block = patches * (_KEPT_BY_A_PATCH * width + _KEPT_BY_ITS_MLP * inner) * compute_dtype.itemsize
    return int(block + depth * patches * width * compute_dtype.itemsize if checkpointing else depth * block)

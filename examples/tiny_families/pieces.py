"""What all families are made of: a small tokenizer, a language model and a vision tower."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

HIDDEN_SIZE = 32
VOCAB_SIZE = 448  # special tokens, 256 bytes, and some merges
MAX_POSITIONS = 4096

TOKENIZER_TEXT = (
    "The picture shows a red square and two blue circles on a yellow ground.",
    "How many green triangles are there? There are three small green triangles.",
    "What colour is the large circle? Describe the shapes in the image, please.",
    "You are a careful assistant. Answer briefly: yes or no. I do not know.",
    "0 1 2 3 4 5 6 7 8 9 zero one two three four five six seven eight nine ten",
)

Parts = tuple[ProcessorMixin | PreTrainedTokenizerFast, PreTrainedModel]
"""What a family is made of: its processor, or the tokenizer where it takes no images, and its model."""


def make_tokenizer(
    special_tokens: list[str], template: str | None, *, eos: str, pad: str, bos: str | None = None, **options: Any
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with `special_tokens` at the front of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOKENIZER_TEXT, trainer)
    return wrap_tokenizer(tokenizer, special_tokens, template, eos=eos, pad=pad, bos=bos, **options)


def wrap_tokenizer(
    tokenizer: Tokenizer,
    special_tokens: list[str],
    template: str | None,
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    **options: Any,
) -> PreTrainedTokenizerFast:
    """`tokenizer` as transformers takes it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token=pad,
        bos_token=bos,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        additional_special_tokens=[token for token in special_tokens if token not in (eos, pad, bos)],
        **options,
    )
    fast.chat_template = template
    return fast


def text_config(tokenizer: PreTrainedTokenizerFast, **overrides: Any) -> dict[str, Any]:
    """The language model of every family: two layers, four heads, two of them for keys and values."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **overrides,
    }


def vision_config(**overrides: Any) -> dict[str, Any]:
    """A vision tower of the CLIP kind: images of 28 x 28 pixels, 16 patches of 7 x 7."""
    return {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        **overrides,
    }

"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, four patches to a token, at most 64 tokens an image."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def _tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(SPECIAL_TOKENS, TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")


def _images(patch_size: int, **options: Any) -> Any:
    token_pixels = (2 * patch_size) ** 2
    return transformers.Qwen2VLImageProcessor(
        patch_size=patch_size, size={"shortest_edge": token_pixels, "longest_edge": 64 * token_pixels}, **options
    )


def _config(
    tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], vision: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, **rope}
    return {
        "text_config": text_config(tokenizer, rope_parameters=rope, **text),
        "vision_config": {"num_heads": 2, **vision},
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen2_vl() -> Parts:
    tokenizer = _tokenizer()
    processor = transformers.Qwen2VLProcessor(
        image_processor=_images(14),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN_SIZE, "mlp_ratio": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(**_config(tokenizer, {}, vision, {"mrope_section": [1, 1, 2]}))
    return processor, transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Parts:
    tokenizer = _tokenizer()
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=_images(14),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "patch_size": 14,
        "out_hidden_size": HIDDEN_SIZE,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(**_config(tokenizer, {}, vision, {"mrope_section": [1, 1, 2]}))
    return processor, transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> Parts:
    tokenizer = _tokenizer()
    processor = transformers.Qwen3VLProcessor(
        image_processor=_images(16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "patch_size": 16,
        "out_hidden_size": HIDDEN_SIZE,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {"num_hidden_layers": 3, "head_dim": 8}
    rope = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(**_config(tokenizer, text, vision, rope))
    return processor, transformers.Qwen3VLForConditionalGeneration(config)

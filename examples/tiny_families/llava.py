"""LLaVA, LLaVA-NeXT and LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config, vision_config

SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<image>"]
TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role != 'system' %}{{- message.role | upper + ': ' }}{%- endif %}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<image>\\n' if part.type == 'image' else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '</s>' if message.role == 'assistant' else ' ' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT: ' }}{%- endif %}"""
NEXT_GRIDS = [[28, 56], [56, 28], [56, 56]]


def _tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(SPECIAL_TOKENS, TEMPLATE, eos="</s>", pad="<pad>", bos="<s>")


def _config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "text_config": text_config(tokenizer, model_type="llama", num_key_value_heads=4),
        "vision_config": vision_config(model_type="clip_vision_model", projection_dim=HIDDEN_SIZE),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _processor_options(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    # "default" drops the class token, which the processor would otherwise count as an additional image token.
    return {
        "tokenizer": tokenizer,
        "patch_size": 7,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": TEMPLATE,
    }


def llava() -> Parts:
    tokenizer = _tokenizer()
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(image_processor=images, **_processor_options(tokenizer))
    config = transformers.LlavaConfig(**_config(tokenizer))
    return processor, transformers.LlavaForConditionalGeneration(config)


def llava_next() -> Parts:
    tokenizer = _tokenizer()
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=NEXT_GRIDS
    )
    processor = transformers.LlavaNextProcessor(image_processor=images, **_processor_options(tokenizer))
    config = transformers.LlavaNextConfig(**_config(tokenizer), image_grid_pinpoints=NEXT_GRIDS)
    return processor, transformers.LlavaNextForConditionalGeneration(config)


def llava_onevision() -> Parts:
    """Its tower has no class token, and no feature is dropped."""
    tokenizer = _tokenizer()
    images = transformers.LlavaOnevisionImageProcessor(
        size={"height": 28, "width": 28}, image_grid_pinpoints=NEXT_GRIDS
    )
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=text_config(tokenizer, model_type="qwen2"),
        vision_config=vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=NEXT_GRIDS,
    )
    return processor, transformers.LlavaOnevisionForConditionalGeneration(config)

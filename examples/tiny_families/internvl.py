"""InternVL and Aya Vision: an image is cut into at most six tiles of 28 x 28 pixels, of four tokens each."""

from __future__ import annotations

from typing import Any

import transformers

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config, vision_config

INTERN_SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
]
INTERN_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<IMG_CONTEXT>\\n' if part.type == 'image' else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

AYA_SPECIAL_TOKENS = [
    *("<PAD>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"),
    *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    *("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
    *("TILE_GLOBAL", *(f"TILE_{tile}" for tile in range(1, 7))),
]
AYA_TEMPLATE = """\
{{- bos_token }}
{%- set names = {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'} %}
{%- for message in messages %}
    {{- '<|START_OF_TURN_TOKEN|>' + names[message.role] }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}{{- '<image>' if part.type == 'image' else part.text }}{%- endfor %}
    {%- endif %}
    {{- '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""


def internvl() -> Parts:
    tokenizer = make_tokenizer(
        INTERN_SPECIAL_TOKENS,
        INTERN_TEMPLATE,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    processor = transformers.InternVLProcessor(
        image_processor=_tiles(),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size={"height": 28, "width": 28}),
        image_seq_length=4,
        chat_template=INTERN_TEMPLATE,
    )
    config = transformers.InternVLConfig(
        text_config=text_config(tokenizer, model_type="qwen2"),
        vision_config=vision_config(image_size=[28, 28], patch_size=[7, 7]),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return processor, transformers.InternVLForConditionalGeneration(config)


def aya_vision() -> Parts:
    tokenizer = make_tokenizer(
        AYA_SPECIAL_TOKENS, AYA_TEMPLATE, eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>", bos="<BOS_TOKEN>"
    )
    processor = transformers.AyaVisionProcessor(
        image_processor=_tiles(),
        tokenizer=tokenizer,
        patch_size=7,
        img_size=28,
        downsample_factor=2,
        chat_template=AYA_TEMPLATE,
    )
    config = transformers.AyaVisionConfig(
        text_config=text_config(
            tokenizer, model_type="cohere2", sliding_window=64, layer_types=["sliding_attention", "full_attention"]
        ),
        vision_config=vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=2 * HIDDEN_SIZE,
    )
    return processor, transformers.AyaVisionForConditionalGeneration(config)


def _tiles() -> Any:
    return transformers.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=6)

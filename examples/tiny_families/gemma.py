"""Gemma 3 and PaliGemma."""

from __future__ import annotations

import transformers

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config, vision_config

SPECIAL_TOKENS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
]
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<start_of_image>' if part.type == 'image' else part.text | trim }}
        {%- endfor %}
    {%- endif %}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""


def gemma3() -> Parts:
    tokenizer = make_tokenizer(
        SPECIAL_TOKENS,
        TEMPLATE,
        eos="<end_of_turn>",
        pad="<pad>",
        bos="<bos>",
        extra_special_tokens={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    config = transformers.Gemma3Config(
        text_config=text_config(
            tokenizer,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=vision_config(model_type="siglip_vision_model"),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    return processor, transformers.Gemma3ForConditionalGeneration(config)


def paligemma() -> Parts:
    """Its processor writes more into a prompt than the image, and takes no text without images."""
    special_tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<image>"]
    template = TEMPLATE.replace("<start_of_image>", "<image>")
    tokenizer = make_tokenizer(
        special_tokens,
        template,
        eos="<end_of_turn>",
        pad="<pad>",
        bos="<bos>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = transformers.SiglipImageProcessor(size={"height": 28, "width": 28}, image_seq_length=16)
    processor = transformers.PaliGemmaProcessor(images, tokenizer, chat_template=template)
    config = transformers.PaliGemmaConfig(
        text_config=text_config(tokenizer, model_type="gemma", head_dim=8),
        vision_config=vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN_SIZE,
        hidden_size=HIDDEN_SIZE,
    )
    return processor, transformers.PaliGemmaForConditionalGeneration(config)

"""Llama 4: tiles of 28 x 28 pixels, of four tokens each, with a token between those of a row and behind each row."""

from __future__ import annotations

import transformers

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config

SPECIAL_TOKENS = [
    *(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad|>",
        "<|header_start|>",
        "<|header_end|>",
        "<|eot|>",
    ),
    *("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
]
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|header_start|>' + message.role + '<|header_end|>\\n\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}{{- '<|image|>' if part.type == 'image' else part.text }}{%- endfor %}
    {%- endif %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}{%- endif %}"""


def llama4() -> Parts:
    tokenizer = make_tokenizer(
        SPECIAL_TOKENS, TEMPLATE, eos="<|eot|>", pad="<|finetune_right_pad|>", bos="<|begin_of_text|>"
    )
    processor = transformers.Llama4Processor(
        image_processor=transformers.Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=4),
        tokenizer=tokenizer,
        patch_size=7,
        chat_template=TEMPLATE,
    )
    config = transformers.Llama4Config(
        text_config=text_config(
            tokenizer,
            head_dim=8,
            intermediate_size_mlp=64,
            num_local_experts=2,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,
        ),
        vision_config={
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 4 * HIDDEN_SIZE,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vision_output_dim": HIDDEN_SIZE,
            "image_size": 28,
            "patch_size": 7,
            "projector_input_dim": HIDDEN_SIZE,
            "projector_output_dim": HIDDEN_SIZE,
        },
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    return processor, transformers.Llama4ForConditionalGeneration(config)


def mllama() -> Parts:
    """Its images are looked at from beside the text, and its processor puts a first token before each text."""
    special_tokens = ["<|begin_of_text|>", "<|pad|>", "<|header_start|>", "<|header_end|>", "<|eot|>"]
    tokenizer = make_tokenizer(
        [*special_tokens, "<|python_tag|>", "<|image|>"],
        TEMPLATE,
        eos="<|eot|>",
        pad="<|pad|>",
        bos="<|begin_of_text|>",
    )
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessor(size={"height": 28, "width": 28}), tokenizer, chat_template=TEMPLATE
    )
    config = transformers.MllamaConfig(
        text_config=text_config(tokenizer, cross_attention_layers=[1]),
        vision_config={
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_output_dim": 2 * HIDDEN_SIZE,
            "intermediate_layers_indices": [0],
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    return processor, transformers.MllamaForConditionalGeneration(config)

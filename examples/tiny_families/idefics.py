"""Idefics3 and SmolVLM: tiles of 28 x 28 pixels, 16 patches each, of which a 2 x 2 shuffle leaves 4 tokens."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tiny_families.pieces import Parts, make_tokenizer, text_config, vision_config

SPECIAL_TOKENS = [
    "<|im_end|>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]
TEMPLATE = """\
{{- '<|im_start|>' }}
{%- for message in messages %}
    {{- message.role | capitalize + ':' }}
    {%- if message.content is string %}
        {{- ' ' + message.content }}
    {%- else %}
        {%- if message.content and message.content[0].type != 'image' %}{{- ' ' }}{%- endif %}
        {%- for part in message.content %}{{- '<image>' if part.type == 'image' else part.text }}{%- endfor %}
    {%- endif %}
    {{- '<end_of_utterance>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"""
TILES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}


def _tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(SPECIAL_TOKENS, TEMPLATE, eos="<end_of_utterance>", pad="<|im_end|>", bos="<|im_start|>")


def _config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "text_config": text_config(tokenizer, model_type="llama", num_key_value_heads=4),
        "vision_config": vision_config(),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": tokenizer.pad_token_id,
    }


def idefics3() -> Parts:
    tokenizer = _tokenizer()
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(**TILES),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    config = transformers.Idefics3Config(**_config(tokenizer))
    return processor, transformers.Idefics3ForConditionalGeneration(config)


def smolvlm() -> Parts:
    tokenizer = _tokenizer()
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**TILES),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=TEMPLATE,
    )
    config = transformers.SmolVLMConfig(**_config(tokenizer))
    return processor, transformers.SmolVLMForConditionalGeneration(config)

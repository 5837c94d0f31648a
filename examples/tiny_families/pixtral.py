"""Pixtral: a token for each patch of 7 x 7 pixels, a row of them ended by a token, and the image by another one."""

from __future__ import annotations

import transformers

from tiny_families.pieces import Parts, make_tokenizer, text_config, vision_config

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
TEMPLATE = """\
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == 'user' %}{{- '[INST]' }}{%- endif %}
    {%- if loop.first and system %}
        {%- if system is string %}{{- system }}{%- else %}{{- system[0].text }}{%- endif %}{{- '\\n\\n' }}
    {%- endif %}
    {%- if message.content is string %}{{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}{{- '[IMG]' }}{%- else %}{{- part.text }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- if message.role == 'user' %}{{- '[/INST]' }}{%- else %}{{- eos_token }}{%- endif %}
{%- endfor %}"""


def pixtral() -> Parts:
    tokenizer = make_tokenizer(SPECIAL_TOKENS, TEMPLATE, eos="</s>", pad="<pad>", bos="<s>")
    images = transformers.PixtralImageProcessor(size={"longest_edge": 84}, patch_size={"height": 7, "width": 7})
    processor = transformers.PixtralProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=7, chat_template=TEMPLATE
    )
    config = transformers.LlavaConfig(
        text_config=text_config(tokenizer, model_type="mistral"),
        vision_config=vision_config(model_type="pixtral", image_size=84),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return processor, transformers.LlavaForConditionalGeneration(config)

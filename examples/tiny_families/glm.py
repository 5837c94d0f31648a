"""GLM-4V: images of any size, four patches to a token, at most 64 tokens an image."""

from __future__ import annotations

import transformers

from tiny_families.pieces import HIDDEN_SIZE, Parts, make_tokenizer, text_config

SPECIAL_TOKENS = [
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|image|>", "<|video|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
]
TEMPLATE = """\
{{- '[gMASK]<sop>' }}
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<|begin_of_image|><|image|><|end_of_image|>' if part.type == 'image' else part.text }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""


def glm4v() -> Parts:
    tokenizer = make_tokenizer(SPECIAL_TOKENS, TEMPLATE, eos="<|user|>", pad="<|endoftext|>")
    token_of = tokenizer.convert_tokens_to_ids
    # Two frames of the same picture: its bounds count both.
    size = {"shortest_edge": 2 * 28**2, "longest_edge": 2 * 64 * 28**2}
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=transformers.Glm4vVideoProcessor(),
        chat_template=TEMPLATE,
    )
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 1.0,
    }
    config = transformers.Glm4vConfig(
        text_config=text_config(tokenizer, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "image_size": 56,
            "out_hidden_size": HIDDEN_SIZE,
        },
        image_token_id=token_of("<|image|>"),
        video_token_id=token_of("<|video|>"),
        image_start_token_id=token_of("<|begin_of_image|>"),
        image_end_token_id=token_of("<|end_of_image|>"),
        video_start_token_id=token_of("<|begin_of_video|>"),
        video_end_token_id=token_of("<|end_of_video|>"),
    )
    return processor, transformers.Glm4vForConditionalGeneration(config)

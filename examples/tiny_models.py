"""Tiny random models of many families, made on the spot: what tests and the demo train where nothing can be fetched.

    python examples/tiny_models.py llava demo-out/model

Each is a whole model folder of under a megabyte (weights, tokenizer, processor, chat template) that loads with
`AutoProcessor` or `AutoTokenizer` and the matching auto model. The weights are noise: such a model says nothing
sensible, but it tokenizes, counts image tokens, computes a loss and learns exactly as its big relatives do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

HIDDEN_SIZE = 32
VOCAB_SIZE = 448  # special tokens, 256 bytes, and some merges
MAX_POSITIONS = 4096
WEIGHT_SCALE = 0.15  # the usual 0.02 leaves all log-probs of so small a model alike

TOKENIZER_TEXT = (
    "The picture shows a red square and two blue circles on a yellow ground.",
    "How many green triangles are there? There are three small green triangles.",
    "What colour is the large circle? Describe the shapes in the image, please.",
    "You are a careful assistant. Answer briefly: yes or no. I do not know.",
    "0 1 2 3 4 5 6 7 8 9 zero one two three four five six seven eight nine ten",
)

Parts = tuple[ProcessorMixin | PreTrainedTokenizerFast, PreTrainedModel]
"""What a family is made of: its processor, or the tokenizer where it takes no images, and its model."""


# ---- shared pieces


def _tokenizer(
    special_tokens: list[str], template: str, *, eos: str, pad: str, bos: str | None = None, **options: Any
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


def _text_config(tokenizer: PreTrainedTokenizerFast, **overrides: Any) -> dict[str, Any]:
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


def _vision_config(**overrides: Any) -> dict[str, Any]:
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


# ---- a text model

TEXT_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'You may call these tools:' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def _text() -> Parts:
    tokenizer = _tokenizer(TEXT_SPECIAL_TOKENS, TEXT_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    config = transformers.Qwen3Config(**_text_config(tokenizer, head_dim=8, tie_word_embeddings=True))
    return tokenizer, transformers.Qwen3ForCausalLM(config)


# ---- LLaVA and LLaVA-NeXT

LLAVA_SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<image>"]
LLAVA_TEMPLATE = """\
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
LLAVA_NEXT_GRIDS = [[28, 56], [56, 28], [56, 56]]


def _llava_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(LLAVA_SPECIAL_TOKENS, LLAVA_TEMPLATE, eos="</s>", pad="<pad>", bos="<s>")


def _llava_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "text_config": _text_config(tokenizer, model_type="llama", num_key_value_heads=4),
        "vision_config": _vision_config(model_type="clip_vision_model", projection_dim=HIDDEN_SIZE),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _llava_processor_options(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    # "default" drops the class token, which the processor would otherwise count as an additional image token.
    return {
        "tokenizer": tokenizer,
        "patch_size": 7,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": LLAVA_TEMPLATE,
    }


def _llava() -> Parts:
    tokenizer = _llava_tokenizer()
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(image_processor=images, **_llava_processor_options(tokenizer))
    config = transformers.LlavaConfig(**_llava_config(tokenizer))
    return processor, transformers.LlavaForConditionalGeneration(config)


def _llava_next() -> Parts:
    tokenizer = _llava_tokenizer()
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=LLAVA_NEXT_GRIDS
    )
    processor = transformers.LlavaNextProcessor(image_processor=images, **_llava_processor_options(tokenizer))
    config = transformers.LlavaNextConfig(**_llava_config(tokenizer), image_grid_pinpoints=LLAVA_NEXT_GRIDS)
    return processor, transformers.LlavaNextForConditionalGeneration(config)


def _llava_onevision() -> Parts:
    """Its tower has no class token, and no feature is dropped."""
    tokenizer = _llava_tokenizer()
    images = transformers.LlavaOnevisionImageProcessor(
        size={"height": 28, "width": 28}, image_grid_pinpoints=LLAVA_NEXT_GRIDS
    )
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_TEMPLATE,
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=_text_config(tokenizer, model_type="qwen2"),
        vision_config=_vision_config(model_type="siglip_vision_model", vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=LLAVA_NEXT_GRIDS,
    )
    return processor, transformers.LlavaOnevisionForConditionalGeneration(config)


# ---- Pixtral: a token for each patch of 7 x 7 pixels, a row of them ended by a token, and the image by another one

PIXTRAL_SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
PIXTRAL_TEMPLATE = """\
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


def _pixtral() -> Parts:
    tokenizer = _tokenizer(PIXTRAL_SPECIAL_TOKENS, PIXTRAL_TEMPLATE, eos="</s>", pad="<pad>", bos="<s>")
    images = transformers.PixtralImageProcessor(size={"longest_edge": 84}, patch_size={"height": 7, "width": 7})
    processor = transformers.PixtralProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=7, chat_template=PIXTRAL_TEMPLATE
    )
    config = transformers.LlavaConfig(
        text_config=_text_config(tokenizer, model_type="mistral"),
        vision_config=_vision_config(model_type="pixtral", image_size=84),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return processor, transformers.LlavaForConditionalGeneration(config)


# ---- Idefics3 and SmolVLM: tiles of 28 x 28 pixels, 16 patches each, of which a 2 x 2 shuffle leaves 4 tokens

IDEFICS_SPECIAL_TOKENS = [
    "<|im_end|>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]
IDEFICS_TEMPLATE = """\
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
IDEFICS_TILES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(
        IDEFICS_SPECIAL_TOKENS, IDEFICS_TEMPLATE, eos="<end_of_utterance>", pad="<|im_end|>", bos="<|im_start|>"
    )


def _idefics_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "text_config": _text_config(tokenizer, model_type="llama", num_key_value_heads=4),
        "vision_config": _vision_config(),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _idefics3() -> Parts:
    tokenizer = _idefics_tokenizer()
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(**IDEFICS_TILES),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = transformers.Idefics3Config(**_idefics_config(tokenizer))
    return processor, transformers.Idefics3ForConditionalGeneration(config)


def _smolvlm() -> Parts:
    tokenizer = _idefics_tokenizer()
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**IDEFICS_TILES),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = transformers.SmolVLMConfig(**_idefics_config(tokenizer))
    return processor, transformers.SmolVLMForConditionalGeneration(config)


# ---- Gemma 3

GEMMA_SPECIAL_TOKENS = [
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
GEMMA_TEMPLATE = """\
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


def _gemma3() -> Parts:
    tokenizer = _tokenizer(
        GEMMA_SPECIAL_TOKENS,
        GEMMA_TEMPLATE,
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
        chat_template=GEMMA_TEMPLATE,
    )
    config = transformers.Gemma3Config(
        text_config=_text_config(
            tokenizer,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=_vision_config(model_type="siglip_vision_model"),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    return processor, transformers.Gemma3ForConditionalGeneration(config)


# ---- Qwen: images of any size, four patches to a token, at most 64 tokens an image

QWEN_SPECIAL_TOKENS = [
    *TEXT_SPECIAL_TOKENS,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_TEMPLATE = """\
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


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(QWEN_SPECIAL_TOKENS, QWEN_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")


def _qwen_images(patch_size: int, **options: Any) -> Any:
    token_pixels = (2 * patch_size) ** 2
    return transformers.Qwen2VLImageProcessor(
        patch_size=patch_size, size={"shortest_edge": token_pixels, "longest_edge": 64 * token_pixels}, **options
    )


def _qwen_config(
    tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], vision: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, **rope}
    return {
        "text_config": _text_config(tokenizer, rope_parameters=rope, **text),
        "vision_config": {"num_heads": 2, **vision},
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def _qwen2_vl() -> Parts:
    tokenizer = _qwen_tokenizer()
    processor = transformers.Qwen2VLProcessor(
        image_processor=_qwen_images(14),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN_SIZE, "mlp_ratio": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(**_qwen_config(tokenizer, {}, vision, {"mrope_section": [1, 1, 2]}))
    return processor, transformers.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> Parts:
    tokenizer = _qwen_tokenizer()
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=_qwen_images(14),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
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
    config = transformers.Qwen2_5_VLConfig(**_qwen_config(tokenizer, {}, vision, {"mrope_section": [1, 1, 2]}))
    return processor, transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Parts:
    tokenizer = _qwen_tokenizer()
    processor = transformers.Qwen3VLProcessor(
        image_processor=_qwen_images(16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
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
    config = transformers.Qwen3VLConfig(**_qwen_config(tokenizer, text, vision, rope))
    return processor, transformers.Qwen3VLForConditionalGeneration(config)


# ---- all of them

_FAMILIES: dict[str, Callable[[], Parts]] = {
    "text": _text,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "pixtral": _pixtral,
    "idefics3": _idefics3,
    "gemma3": _gemma3,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
}
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
TORCHVISION_FAMILIES: tuple[str, ...] = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm")
"""Those whose processors want torchvision."""
IMAGE_FAMILIES: tuple[str, ...] = tuple(name for name in FAMILIES if name != "text")


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the model of the family `name` to `folder`, and return `folder`. The same seed gives the same weights."""
    processor, model = _FAMILIES[name]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random model folder.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    # That a processor does without torchvision is what is wanted here, and a bar for half a megabyte is noise.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(build(arguments.family, arguments.folder))


if __name__ == "__main__":
    main()

"""Models of text alone: like Qwen3, Llama 3, Gemma, and a GPT-2 without a chat template."""

from __future__ import annotations

import json

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from tiny_families.pieces import Parts, make_tokenizer, text_config, wrap_tokenizer

QWEN_TEMPLATE = """\
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

LLAMA_SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
    {%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

GEMMA_SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TEMPLATE = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
    {{- message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""


def text() -> Parts:
    special_tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = make_tokenizer(special_tokens, QWEN_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    config = transformers.Qwen3Config(**text_config(tokenizer, head_dim=8, tie_word_embeddings=True))
    return tokenizer, transformers.Qwen3ForCausalLM(config)


def llama3() -> Parts:
    """Its tokenizer puts a first token before each text, and its template writes the same one."""
    tokenizer = make_tokenizer(
        LLAMA_SPECIAL_TOKENS, LLAMA_TEMPLATE, eos="<|eot_id|>", pad="<|end_of_text|>", bos="<|begin_of_text|>"
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)]
    )
    config = transformers.LlamaConfig(**text_config(tokenizer))
    return tokenizer, transformers.LlamaForCausalLM(config)


def gemma() -> Parts:
    """Its template takes no system message."""
    tokenizer = _sentencepiece_tokenizer()
    config = transformers.GemmaConfig(**text_config(tokenizer, head_dim=8))
    return tokenizer, transformers.GemmaForCausalLM(config)


def gpt2() -> Parts:
    """It has no chat template."""
    tokenizer = make_tokenizer(["<|endoftext|>"], None, eos="<|endoftext|>", pad="<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    return tokenizer, transformers.GPT2LMHeadModel(config)


def _sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Spaces are a sign of their own, and bytes stand for what is not in the vocabulary."""
    special = GEMMA_SPECIAL_TOKENS
    trained = json.loads(make_tokenizer(special, None, eos="<eos>", pad="<pad>").backend_tokenizer.to_str())
    learned = [token.replace("Ġ", "▁") for token in trained["model"]["vocab"] if token.isascii() or "Ġ" in token]
    vocab = {token: index for index, token in enumerate([*learned, *(f"<0x{byte:02X}>" for byte in range(256))])}
    merges = [tuple(part.replace("Ġ", "▁") for part in merge) for merge in trained["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # as sentencepiece reads ids back
    )
    tokenizer.add_special_tokens(special)
    return wrap_tokenizer(tokenizer, special, GEMMA_TEMPLATE, eos="<eos>", pad="<pad>", bos="<bos>")

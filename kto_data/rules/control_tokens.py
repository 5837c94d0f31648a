"""Control tokens of published model families: what a chat template writes, and a tokenizer turns into one id.

A finding of this kind is an error, so only spellings are listed that no person types by accident. Names shared with
ordinary markup or with a family's plain text are left out: `<image>` (our placeholder), `<video>`, `<think>`,
`<tool_call>`, `<mask>`. LLaMA's `<s>` and `</s>` count where they cannot be HTML's strike-through: at the ends of a
text, without the other one.
"""

from __future__ import annotations

import re

_EXACT = (
    # LLaMA 2, Mistral
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]",
    # Gemma
    "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
    # Idefics, SmolVLM, PaliGemma
    "<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
    # InternVL
    "<IMG_CONTEXT>",
)  # fmt: skip

# `<|im_start|>`, `<|vision_pad|>`, `<|start_header_id|>`, `<|user|>`, `<|tool_call|>` …: one lower-case word between
# `<|` and `|>`, of the words that published vocabularies have. DeepSeek writes the bar and the blank full-width.
_BARRED = (
    "im_start", "im_end", "im_sep", "endoftext", "startoftext", "endofprompt", "end", "start", "message", "channel",
    "constrain", "return", "call", "user", "assistant", "system", "tool", "tool_response", "tool_call", "observation",
    "eot_id", "eom_id", "begin_of_text", "end_of_text", "start_header_id", "end_header_id", "finetune_right_pad_id",
    "python_tag", "header_start", "header_end", "eot", "eom", "patch", "image", "image_start", "image_end",
    "image_pad", "video_pad", "vision_start", "vision_end", "vision_pad", "object_ref_start", "object_ref_end",
    "box_start", "box_end", "quad_start", "quad_end", "fim_prefix", "fim_middle", "fim_suffix", "fim_pad",
    "repo_name", "file_sep", "audio_pad", "audio_bos", "audio_eos", "begin_of_image", "end_of_image", "begin_of_video",
    "end_of_video", "endofsystem", "start_of_role", "end_of_role", "end_of_turn", "turn_end", "pad", "bos", "eos",
    "START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN", "SYSTEM_TOKEN",
)  # fmt: skip

_ANGLED = re.compile(
    "|".join(re.escape(token) for token in _EXACT if token.startswith("<"))
    + r"|<\|(?:"
    + "|".join(_BARRED)
    + r"|image_[0-9]+|reserved_special_token_[0-9]+)\|>"
    + r"|<｜[^<>｜]{1,40}｜>"
)
_BRACKETED = re.compile("|".join(re.escape(token) for token in _EXACT if token.startswith("[")))


def find_control_tokens(text: str) -> list[str]:
    """The distinct control tokens in `text`."""
    found = []
    if "<" in text:
        found += _ANGLED.findall(text)
        if "<s>" in text and "</s>" not in text and text.lstrip().startswith("<s>"):
            found.append("<s>")
        if "</s>" in text and "<s>" not in text and text.rstrip().endswith("</s>"):
            found.append("</s>")
    if "[" in text:
        found += _BRACKETED.findall(text)
    return list(dict.fromkeys(found))


AMBIGUOUS = frozenset(
    f"<|{word}|>"
    for word in ("user", "assistant", "system", "end", "start", "message", "call", "return", "tool", "image")
)
"""Control tokens of a few families (GLM-4, Phi, gpt-oss) that others leave in their answers as plain text."""


_PERHAPS = re.compile(
    b"|".join(re.escape(token.encode()) for token in _EXACT)
    + rb"|<\|(?:"
    + "|".join(_BARRED).encode()
    + rb"|image_[0-9]+|reserved_special_token_[0-9]+)\|>|"
    # The latter at the end of a text, with nothing behind it but what may be a space.
    + rb'<s>|</s>(?=(?:[^!-~]|\\(?:[bfnrt]|u[0-9a-f]{4}))*+")|'
    + "<｜".encode()
)


def _beginnings() -> dict[bytes, frozenset[bytes]]:
    barred = [f"<|{word}" for word in (*_BARRED, "image_", "reserved_special_token_")]
    tokens = [token.encode()[:3] for token in (*_EXACT, *barred, "<｜", "<s>", "</s>")]
    return {first: frozenset(token for token in tokens if token[:1] == first) for first in (b"<", b"[")}


TOKEN_BEGINNINGS = _beginnings()
"""The first three bytes of every control token in UTF-8, by the first one."""


def may_be_control_token(data: bytes, place: int) -> bool:
    """Whether a control token may begin at a place in JSON strings in UTF-8: never false where one does."""
    return _PERHAPS.match(data, place) is not None

"""What of a model's tokenizer, template and image processor decides the ids, as hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kto_data.startup import no_garbage_collection

_READERS = ("processor_class", "image_processor_type", "video_processor_type", "_processor_class", "tokenizer")
"""Entries of a processor's settings that say which class, or library version, reads them."""


@no_garbage_collection()
def identity(processing_class: Any, tokenizer: Any, *, with_images: bool) -> dict[str, str]:
    """Hashes of all that decides the ids: "tokenizer", "chat_template" and, `with_images`, "image_processor"."""
    template = processing_class.chat_template or tokenizer.chat_template
    parts = {"tokenizer": _tokenizer_state(tokenizer), "chat_template": json.dumps(template, sort_keys=True).encode()}
    if with_images:
        entries = {**_settings(processing_class.to_dict()), "image_token": str(processing_class.image_token)}
        settings = json.dumps(entries, sort_keys=True, default=str)
        parts["image_processor"] = settings.encode()
    return {name: hashlib.sha256(state).hexdigest()[:32] for name, state in parts.items()}


def _tokenizer_state(tokenizer: Any) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)  # tokenizers written in Python have none
    if backend is None:
        added = {str(token): index for token, index in tokenizer.get_added_vocab().items()}
        return json.dumps([tokenizer.get_vocab(), added, _beside_backend(tokenizer)], sort_keys=True).encode()
    written: str = backend.to_str()
    # What comes first, truncation and padding, is left behind by whoever called last, and has no part in the ids of a
    # single text. The rest is megabytes of vocabulary, which it would take long to parse.
    _, begins, state = written.partition('"added_tokens":')
    assert begins, "a tokenizer is written without its added tokens"
    return json.dumps(_beside_backend(tokenizer), sort_keys=True).encode() + state.encode()


def _beside_backend(tokenizer: Any) -> dict[str, Any]:
    """What of a tokenizer its backend does not know: special tokens that a template writes, and whether they are read
    as such. Not the one for padding, which training scripts set as they like, and no template writes."""
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"}
    return {"named": named, "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False))}


def _settings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settings(item) for key, item in value.items() if key not in _READERS}
    if isinstance(value, (list, tuple)):
        return [_settings(item) for item in value]
    return value

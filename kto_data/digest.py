"""One 64-bit number for what a sample says: prompt, images and completion, without its label.

Samples with the same number are taken for the same sample: among 10 million different ones, two share a number by
chance once in 370,000 datasets.
"""

from __future__ import annotations

import orjson
import xxhash

from kto_data.record import IMAGE_PLACEHOLDER, Message, Record

BETWEEN = "\x1f"  # ASCII unit separator
"""Stands between role, text, role, text, … where a conversation is written as one string."""


def digest(conversation: str, images: list[str], tools: object = None) -> int:
    """The number of a sample. `conversation` is its roles and texts, `BETWEEN` them, placeholders for its images."""
    if images:
        conversation = BETWEEN.join([conversation, "\x1e", *images])
    if tools is not None:
        conversation += "\x1d" + orjson.dumps(tools, option=orjson.OPT_SORT_KEYS).decode()
    return xxhash.xxh3_64_intdigest(conversation.encode())


def record_digest(record: Record) -> int:
    """The number of a record, the same whichever way its contents are written."""
    turns = [piece for message in record.messages for piece in (message.role, message_text(message))]
    return digest(BETWEEN.join(turns), list(record.images), record.tools or None)


def message_text(message: Message) -> str:
    """All text of a message, with a placeholder for each image."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text if part.type == "text" else IMAGE_PLACEHOLDER for part in message.content)

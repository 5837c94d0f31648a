"""One 64-bit number for what a sample says: prompt, images and completion, without its label.

Samples with the same number are taken for the same sample: among 10 million different ones, two share a number by
chance once in 370,000 datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson
import xxhash

from kto_data.fields import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from kto_data.record import Message, Record

BETWEEN = "\x1f"  # ASCII unit separator
"""Stands between the roles and texts of a conversation that is written as one string."""


def digest(conversation: bytes, images: Sequence[str], tools: object = None) -> int:
    """The number of a sample.

    `conversation` is the roles, then the texts, in UTF-8 with `BETWEEN` them and placeholders for the images.
    """
    if images:
        conversation += BETWEEN.join(("\x1e", *images)).encode()
    if tools is not None:
        conversation += b"\x1d" + orjson.dumps(tools, option=orjson.OPT_SORT_KEYS)
    return xxhash.xxh3_64_intdigest(conversation)


def record_digest(record: Record) -> int:
    """The number of a record, the same whichever way its contents are written."""
    pieces = [*(message.role for message in record.messages), *map(message_text, record.messages)]
    return digest(BETWEEN.join(pieces).encode(), record.images, record.tools or None)


def message_text(message: Message) -> str:
    """All text of a message, with a placeholder for each image."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text if part.type == "text" else IMAGE_PLACEHOLDER for part in message.content)

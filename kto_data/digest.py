"""Numbers of 64 bits for what a sample says, and for its halves: the prompt with its images, and the completion.

Samples with the same number are taken for the same sample: among 10 million different ones, two share a number by
chance once in 370,000 datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import orjson
import xxhash

from kto_data import image_file
from kto_data.fields import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kto_data.record import Message, Record

MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: odd, and far from any pattern
"""What a number is multiplied by before another one is added to it."""
_MASK = (1 << 64) - 1


class SampleDigest(NamedTuple):
    """The numbers of a sample's halves."""

    prompt: int
    completion: int

    @property
    def whole(self) -> int:
        """The number of the sample."""
        return join_digests(self.prompt, self.completion)


def prompt_digest(texts: int, images: Sequence[str] = (), tools: object = None) -> int:
    """The number of a prompt.

    `texts` is what `add_text` made of the text of each message but the last, with placeholders for the images,
    beginning with `seed_of` the roles of all messages.
    """
    if images:
        texts = add_text(as_json(images), texts)
    if tools is not None:
        texts = add_text(orjson.dumps(tools, option=orjson.OPT_SORT_KEYS), ~texts & _MASK)
    return texts


@lru_cache(maxsize=4096)
def seed_of(roles: tuple[str, ...]) -> int:
    """What the roles of all messages of a sample add to the number of its prompt."""
    return add_text(as_json(roles))


add_text = xxhash.xxh3_64_intdigest
"""The number of a text, from what `as_json` makes of it, joined to the number before it."""


as_json = orjson.dumps
"""Strings in one spelling, whatever theirs was: the shortest; for ASCII and other texts alike faster than
`str.encode`."""


@lru_cache(maxsize=50_000)  # an image stands in many records
def file_digest(path: str) -> int | None:
    """The number of the bytes of a file, as they were when this process first asked; None where it cannot be read."""
    try:
        return fresh_file_digest(path)
    except OSError:
        return None


def fresh_file_digest(path: str) -> int:
    """The number of the bytes of a file, or of what lies at a URL, as they are now. Raises OSError where it cannot be
    read."""
    content = xxhash.xxh3_64()
    with image_file.open_whole(path) as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.intdigest()


_Number = TypeVar("_Number", int, "NDArray[np.uint64]")


def join_digests(prompt: _Number, completion: _Number) -> _Number:
    """The number of a sample, from those of its halves; or the numbers of many, from columns."""
    return (prompt * MIX + completion) & _MASK  # type: ignore[return-value]  # an int is no signed array


def record_digest(record: Record) -> SampleDigest:
    """The numbers of a record, the same whichever way its contents are written."""
    roles = tuple(message.role for message in record.messages)
    prompt = seed_of(roles)
    for message in record.prompt:
        prompt = add_text(as_json(message_text(message)), prompt)
    return SampleDigest(
        prompt_digest(prompt, record.images, record.tools or None),
        add_text(as_json(message_text(record.completion))),
    )


def message_text(message: Message) -> str:
    """All text of a message, with a placeholder for each image."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text if part.type == "text" else IMAGE_PLACEHOLDER for part in message.content)

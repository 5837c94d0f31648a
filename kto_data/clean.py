"""The fast path: records that are plainly clean are told apart from all others for little more than parsing costs.

The law: where `Gate.clean` answers, `LineChecker.check` finds nothing. The other way round nothing is promised: what is
unusual goes the slow way, which words its findings. So each test here may be stricter than the rule it stands for, and
none may be laxer.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import orjson

from kto_data.check import CODES_OF_WHOLE_RECORDS, LineChecker
from kto_data.digest import BETWEEN, SampleDigest, completion_digest, prompt_digest
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.formats import Format
from kto_data.json_array import MAX_COMMAS
from kto_data.rules.base import Stage
from kto_data.rules.chat import MAY_FOLLOW, is_blank
from kto_data.rules.control_tokens import may_hold_control_tokens
from kto_data.rules.facts import Shape

_FIELDS = frozenset({"messages", "label", "images", "id", "source"})
_NO_IMAGES: list[str] = []
KNOWN_RULES = frozenset(
    "KTO101 KTO102 KTO103 KTO104 KTO105 KTO106 KTO107 KTO108 KTO109 KTO110 KTO111 KTO112"
    " KTO301 KTO302 KTO303 KTO304 KTO305 KTO306 KTO307 KTO308 KTO309 KTO402".split()
)
"""The row rules that a line is judged by here. Where any other one is selected, no line is let pass; rules about images
are asked themselves."""
_BETWEEN = BETWEEN.encode()


class Gate:
    """Judges raw lines by the rules and the image memory of a `LineChecker`."""

    def __init__(self, checker: LineChecker) -> None:
        self._checker = checker
        settings = checker.settings
        self._may_judge = KNOWN_RULES.issuperset(rule.code for rule in settings.rules(Stage.ROW))
        self._may_judge &= settings.codes.isdisjoint(CODES_OF_WHOLE_RECORDS)
        self.images = _NO_IMAGES  # of the record that was let pass last
        self.format = checker.layout.format or Format.MESSAGES
        # What the layout renames or leaves out goes the slow way.
        self._fields = frozenset(name for name in _FIELDS if checker.layout.takes_as_is((name,)))

    def clean(self, raw: bytes, data_path: str) -> tuple[SampleDigest, int, Shape] | None:
        """What `ChunkFacts.add_sample` wants to know of the one record in `raw`: its digest, the length of its
        completion, its shape. None where a closer look is needed."""
        if not self._may_judge:
            return None
        if len(raw) > MAX_COMMAS:  # so long that it may be too large to be parsed
            return None
        try:
            record = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        if type(record) is not dict or not self._fields.issuperset(record):
            return None
        label, messages = record.get("label"), record.get("messages")
        if type(label) is not bool or type(messages) is not list:
            return None
        pieces = _pieces(messages)
        if pieces is None:
            return None
        # Each by itself: one text beyond ASCII would make a string of all of them slow to encode.
        *prompt, completion = [piece.encode() for piece in pieces]
        conversation = _BETWEEN.join(prompt)
        if not _accounts_for_all_strings(raw, record, conversation.count(b'"') + completion.count(b'"')):
            return None
        has_angle = b"<" in conversation or b"<" in completion
        has_bracket = b"[" in conversation or b"[" in completion
        if (has_angle or has_bracket) and may_hold_control_tokens(BETWEEN.join(pieces)):
            return None
        images = record.get("images", _NO_IMAGES)
        if (has_angle or images is not _NO_IMAGES) and not self._are_clean_images(images, messages, data_path):
            return None
        self.images = images
        digest = SampleDigest(prompt_digest(conversation, images), completion_digest(completion))
        return digest, len(pieces[-1]), Shape(label, len(messages), len(images), record.get("source") or "")

    def _are_clean_images(self, images: Any, messages: list[dict[str, str]], data_path: str) -> bool:
        if type(images) is not list:
            return False
        placeholders = sum([message["content"].count(IMAGE_PLACEHOLDER) for message in messages])
        if placeholders != len(images) or IMAGE_PLACEHOLDER in messages[-1]["content"]:
            return False
        return all(type(path) is str for path in images) and self._checker.are_clean_images(images, data_path)


def _pieces(messages: list[Any]) -> list[str] | None:
    """The prompt's roles, then all texts; None unless all is in order: types, roles, turns, no empty text."""
    try:
        roles = [message["role"] for message in messages]
        texts = [message["content"] for message in messages]
        if not _are_in_order(tuple(roles)):
            return None
        for text in texts:
            # A text that begins with a visible character is not empty; others are looked at.
            if not "!" <= text[:1] <= "~" and is_blank(text):
                return None
    except (TypeError, KeyError, AttributeError):  # something is no object, no string, or not there
        return None
    return roles[:-1] + texts


@lru_cache(maxsize=4096)
def _are_in_order(roles: tuple[str, ...]) -> bool:
    """Whether the roles take turns as they should and end with the assistant."""
    if len(roles) < 2 or roles[-1] != "assistant":
        return False
    return all(role in MAY_FOLLOW.get(before, ()) for before, role in pairwise(("", *roles)))


def _accounts_for_all_strings(raw: bytes, record: dict[str, Any], marks: int) -> bool:
    """Whether every quotation mark of the line is accounted for; `marks` of them are in the texts of the messages.

    A mark in the raw line either begins or ends a string, or is escaped within one. A key that the parser dropped, or
    one of a message besides its role and content, leaves some over.
    """
    num_strings = len(record) + 4 * len(record["messages"])
    if len(record) > 2:
        images, name, source = record.get("images", []), record.get("id"), record.get("source")
        if type(images) is not list or (type(source) is not str and source is not None):
            return False
        if type(name) is int:
            name = None
        for text in (*images, name, source):
            if type(text) is str:
                num_strings += 1
                marks += text.count('"')
            elif text is not None:
                return False
    if marks and b"0022" in raw:  # the code of a quotation mark: perhaps one in disguise
        return False
    return raw.count(b'"') == 2 * num_strings + marks

"""The fast path: records that are plainly clean are told apart from all others for little more than parsing costs.

The law: where `Gate.clean` answers, `LineChecker.check` finds nothing. The other way round nothing is promised: what is
unusual goes the slow way, which words its findings. So each test here may be stricter than the rule it stands for, and
none may be laxer.
"""

from __future__ import annotations

from typing import Any

import orjson

from kto_data.check import LineChecker
from kto_data.digest import BETWEEN, digest
from kto_data.formats import Format
from kto_data.record import IMAGE_PLACEHOLDER
from kto_data.rules.chat import MAY_FOLLOW, is_blank
from kto_data.rules.control_tokens import may_hold_control_tokens

_FIELDS = frozenset({"messages", "label", "images", "id", "source"})


class Gate:
    """Judges raw lines by the rules and the image memory of a `LineChecker`."""

    def __init__(self, checker: LineChecker) -> None:
        self._checker = checker
        self.format = checker.layout.format or Format.MESSAGES
        # What the layout renames or leaves out goes the slow way.
        self._fields = frozenset(name for name in _FIELDS if checker.layout.takes_as_is((name,)))

    def clean(self, raw: bytes, data_path: str) -> tuple[int, bool] | None:
        """The digest and the label of the one record in `raw`; None where a closer look is needed."""
        try:
            record = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
        if type(record) is not dict or not record.keys() <= self._fields:
            return None
        label = record.get("label")
        conversation = _conversation(record.get("messages"))
        if conversation is None or type(label) is not bool:
            return None
        images = record.get("images", [])
        if type(images) is not list or not self._are_clean_images(images, conversation, data_path):
            return None
        if may_hold_control_tokens(conversation) or not _names_no_key_twice(raw, record, conversation):
            return None
        return digest(conversation, images), label

    def _are_clean_images(self, images: list[Any], conversation: str, data_path: str) -> bool:
        placeholders = conversation.count(IMAGE_PLACEHOLDER) if "<" in conversation else 0
        if placeholders != len(images) or (placeholders and IMAGE_PLACEHOLDER in conversation.rpartition(BETWEEN)[2]):
            return False
        return all(type(path) is str and self._checker.is_clean_image(path, data_path) for path in images)


def _conversation(messages: Any) -> str | None:
    """Roles and texts with `BETWEEN` them; None unless all is in order: types, keys, roles, turns, no empty text."""
    if type(messages) is not list or len(messages) < 2:
        return None
    turns: list[str] = []
    role: Any = ""
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        allowed = MAY_FOLLOW[role]
        role, text = message.get("role"), message.get("content")
        if role not in allowed or type(text) is not str or is_blank(text):
            return None
        turns += (role, text)
    return BETWEEN.join(turns) if role == "assistant" else None


def _names_no_key_twice(raw: bytes, record: dict[str, Any], conversation: str) -> bool:
    """Whether every quotation mark of the line is accounted for; a key that the parser dropped leaves some over.

    A mark in the raw line either begins or ends a string that was kept, or is escaped within one.
    """
    if b"\\u0022" in raw:  # a quotation mark in disguise
        return False
    num_messages = len(record["messages"])
    num_strings = len(record) + 4 * num_messages
    marks = conversation.count('"')
    for text in (*record.get("images", ()), record.get("id"), record.get("source")):
        if type(text) is str:
            num_strings += 1
            marks += text.count('"')
        elif type(text) is not int and text is not None:
            return False
    return type(record.get("source")) is not int and raw.count(b'"') == 2 * num_strings + marks

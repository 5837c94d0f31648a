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

from kto_data.check import LineChecker
from kto_data.digest import conversation, digest
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.formats import Format
from kto_data.rules.chat import MAY_FOLLOW, is_blank
from kto_data.rules.control_tokens import may_hold_control_tokens

_FIELDS = frozenset({"messages", "label", "images", "id", "source"})
_NO_IMAGES: list[str] = []
_NONE = type(None)


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
        if type(record) is not dict or not self._fields.issuperset(record):
            return None
        label, messages = record.get("label"), record.get("messages")
        if type(label) is not bool or type(messages) is not list:
            return None
        try:
            roles = tuple([message["role"] for message in messages])
            texts = [message["content"] for message in messages]
            if not _are_in_order(roles) or _any_blank(texts):
                return None
        except (TypeError, KeyError):  # something is no object, no string, or not there
            return None
        written = list(map(orjson.dumps, texts))
        said = conversation(roles, written)
        if not _is_as_written(raw, record, roles, written) and not _accounts_for_all_strings(raw, record, said):
            return None
        has_angle = b"<" in said
        if (has_angle or b"[" in said) and may_hold_control_tokens("\n".join(texts)):
            return None
        images = record.get("images", _NO_IMAGES)
        if (has_angle or images is not _NO_IMAGES) and not self._are_clean_images(images, texts, data_path):
            return None
        return digest(said, images), label

    def _are_clean_images(self, images: Any, texts: list[str], data_path: str) -> bool:
        if type(images) is not list:
            return False
        placeholders = sum([text.count(IMAGE_PLACEHOLDER) for text in texts])
        if placeholders != len(images) or IMAGE_PLACEHOLDER in texts[-1]:
            return False
        return all(type(path) is str and self._checker.is_clean_image(path, data_path) for path in images)


@lru_cache(maxsize=4096)
def _are_in_order(roles: tuple[str, ...]) -> bool:
    """Whether the roles take turns as they should and end with the assistant."""
    if len(roles) < 2 or roles[-1] != "assistant":
        return False
    return all(role in MAY_FOLLOW.get(before, ()) for before, role in pairwise(("", *roles)))


def _any_blank(texts: list[str]) -> bool:
    """Whether one of at least two texts shows nothing. Raises `TypeError` where one is no string."""
    # Texts between "!" and "~" begin with a visible character; others are looked at.
    return (min(texts) < "!" or max(texts) >= "\x7f") and any(map(is_blank, texts))


def _is_as_written(raw: bytes, record: dict[str, Any], roles: tuple[str, ...], texts: list[bytes]) -> bool:
    """Whether the line is, byte for byte, what `json.dumps` or orjson writes for a record of messages and label alone.

    Then it names no key twice: the parser has dropped nothing.
    """
    if len(record) != 2:
        return False
    content_first = next(iter(record["messages"][0])) == "content"
    pieces = [b""] * (2 * len(texts) + 1)
    pieces[::2] = _frame(tuple(record), roles, record["label"], content_first, b'": ' in raw[:16])
    pieces[1::2] = texts
    return b"".join(pieces) == raw


@lru_cache(maxsize=4096)
def _frame(
    keys: tuple[str, ...], roles: tuple[str, ...], label: bool, content_first: bool, is_spaced: bool
) -> list[bytes]:
    """A record as it is written, cut where its texts stand."""
    comma, colon = (", ", ": ") if is_spaced else (",", ":")
    messages = []
    for role in roles:
        fields = [f'"role"{colon}"{role}"', f'"content"{colon}\0']
        messages.append("{" + comma.join(reversed(fields) if content_first else fields) + "}")
    values = {"messages": f"[{comma.join(messages)}]", "label": "true" if label else "false"}
    return ("{" + comma.join(f'"{key}"{colon}{values[key]}' for key in keys) + "}").encode().split(b"\0")


def _accounts_for_all_strings(raw: bytes, record: dict[str, Any], said: bytes) -> bool:
    """Whether every quotation mark of the line is accounted for; those of the messages' texts are in `said`.

    A mark in the raw line either begins or ends a string, or is escaped within one. A key that the parser dropped, or
    one of a message besides its role and content, leaves some over.
    """
    images, name, source = record.get("images", _NO_IMAGES), record.get("id"), record.get("source")
    if type(images) is not list or type(name) not in (str, int, _NONE) or type(source) not in (str, _NONE):
        return False
    strings = [text for text in (*images, name, source) if type(text) is str]
    num_strings = len(record) + 3 * len(record["messages"]) + len(strings)
    marks = said.count(b'"') + sum([text.count('"') for text in strings])
    # A mark may be there in disguise, as its code.
    return raw.count(b'"') == 2 * num_strings + marks and b"0022" not in raw

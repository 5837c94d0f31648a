"""What is done to a row for each rule that can be mended: a piece of its text replaced, all else kept.

An edit starts from a finding and its pointer, in the user's own spelling. Where it cannot be made for certain (a role
that is no alias, a label that is no word for true or false), nothing is replaced and the finding remains.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from kto_data.chunk import Line
from kto_data.draft import escape
from kto_data.fields import IMAGE_PLACEHOLDER, ROLES
from kto_data.formats import Layout
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.mend.splice import Span, Splice, decode, encode_as, find, strings
from kto_data.row import Row
from kto_data.rules.characters import CONTROL_CHARACTERS
from kto_data.rules.chat import ROLE_ALIASES, is_blank
from kto_data.rules.control_tokens import find_control_tokens
from kto_data.rules.mojibake import undo_mojibake

_LABELS = {"true": True, "false": False, "1": True, "0": False}
_PLACEHOLDER_AND_BREAK = re.compile(re.escape(IMAGE_PLACEHOLDER) + r"\n?")


@dataclass(frozen=True)
class Subject:
    """A row that is to be mended, and what is known around it."""

    line: Line
    layout: Layout
    image_root: Path | None = None  # None: image files are not looked at

    @property
    def raw(self) -> bytes:
        """The bytes of the row."""
        return self.line.raw

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The row as it was read; two of a paired one."""
        from kto_data.read import read_rows  # and with it pydantic

        return read_rows(self.line, self.layout)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is left of a finding while it waits to be mended."""

    code: str
    pointer: str
    token: str = ""  # of KTO309: the control token, which may be one of the model's own


Edit = Callable[[Subject, Wish], Iterator[Splice]]
"""A row and what is to be mended in it, to what is to be replaced."""


def byte_order_mark(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """The mark goes."""
    if subject.raw.startswith(BYTE_ORDER_MARK):
        yield Splice(Span(0, len(BYTE_ORDER_MARK)), b"")


def lone_surrogates(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """Halves of surrogate pairs become U+FFFD, in every string: a key with one has no pointer of its own."""
    for span in strings(subject.raw):
        before = subject.raw[span.start : span.stop]
        text = decode(subject.raw, span) if b"\\u" in before else None
        if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
            mended = re.sub("[\ud800-\udfff]", "\ufffd", text)
            yield Splice(span, encode_as(mended, before))


def images_list(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """One path becomes a list of one; null and the empty string, a list of none."""
    span = find(subject.raw, wish.pointer)
    if span is None:
        return
    text = subject.raw[span.start : span.stop]
    value = decode(subject.raw, span)
    if isinstance(value, str) and value:
        yield Splice(span, b"[" + text + b"]")
    elif value == "" or text == b"null":
        yield Splice(span, b"[]")


def portable_path(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """Slashes for backslashes and NFC for other Unicode forms, unless the path as it is leads to a file and the new one
    does not."""
    import unicodedata

    span, path = _string_at(subject, wish.pointer)
    if span is None:
        return
    mended = unicodedata.normalize("NFC", path.replace("\\", "/"))
    root = subject.image_root
    is_lost = root is not None and os.path.lexists(root / path) and not os.path.lexists(root / mended)
    if mended != path and not is_lost:
        yield Splice(span, encode_as(mended, subject.raw[span.start : span.stop]))


def role_alias(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """A well-known alias, or a role in other letter case, becomes the role."""
    span, given = _string_at(subject, wish.pointer)
    name = given.strip().lower()
    role = name if name in ROLES else ROLE_ALIASES.get(name)
    if span is None or role is None:
        return
    # Among `human` and `gpt`, the file's own words go on.
    own_words = {canonical: user for user, canonical in subject.layout.tags.roles().items()}
    is_tagged = wish.pointer.endswith(f"/{escape(subject.layout.tags.role_tag)}") and not wish.pointer.endswith("/role")
    word = own_words.get(role, role) if is_tagged else role
    yield Splice(span, encode_as(word, subject.raw[span.start : span.stop]))


def label_word(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """ "true", "false", 1 and 0 become the boolean that they say; nothing else does."""
    span = find(subject.raw, wish.pointer)
    value = decode(subject.raw, span) if span else None
    if span is None or isinstance(value, bool) or not isinstance(value, str | int):
        return
    label = _LABELS.get(str(value).lower())
    if label is not None:
        yield Splice(span, b"true" if label else b"false")


def placeholders(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """Missing placeholders are put before the first user message, where trainers put them too; of those that are too
    many, the last ones go."""
    for row in subject.rows:
        views = [view for view in row.messages if view.text is not None]
        if row.num_images is None or len(views) != len(row.messages):
            continue
        extra = sum(view.num_images for view in views) - row.num_images
        user = next((view.index for view in views if view.role == "user"), None)
        if extra < 0 and user is not None:
            yield from _content_edit(subject, row, user, partial(_with_placeholders, count=-extra))
        for view in reversed(views):
            here = min(extra, view.num_images)
            if here > 0:
                yield from _content_edit(subject, row, view.index, partial(_without_placeholders, count=here))
                extra -= here


def control_tokens(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """They are taken out, as long as some text is left."""
    return _text_edit(subject, wish.pointer, lambda text: _without_control_tokens(text, wish.token))


def mojibake(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """Letters that were read in the wrong encoding are read again."""
    return _text_edit(subject, wish.pointer, undo_mojibake)


def control_characters(subject: Subject, wish: Wish) -> Iterator[Splice]:
    """They are taken out."""
    return _text_edit(subject, wish.pointer, lambda text: CONTROL_CHARACTERS.sub("", text))


EDITS: dict[str, Edit] = {
    "KTO105": byte_order_mark,
    "KTO108": lone_surrogates,
    "KTO112": images_list,
    "KTO216": portable_path,
    "KTO302": role_alias,
    "KTO305": placeholders,
    "KTO309": control_tokens,
    "KTO310": mojibake,
    "KTO311": control_characters,
    "KTO402": label_word,
}
"""By the code of the rule whose finding they mend."""


def _string_at(subject: Subject, pointer: str) -> tuple[Span | None, str]:
    span = find(subject.raw, pointer)
    value = decode(subject.raw, span) if span else None
    return (span, value) if isinstance(value, str) else (None, "")


def _text_edit(subject: Subject, pointer: str, mend: Callable[[str], str]) -> Iterator[Splice]:
    """Mend the text at `pointer`, or the text of each part there."""
    span = find(subject.raw, pointer)
    if span is None:
        return
    value = decode(subject.raw, span)
    if isinstance(value, list):
        for index in range(len(value)):
            yield from _text_edit(subject, f"{pointer}/{index}/text", mend)
    elif isinstance(value, str):
        mended = mend(value)
        if mended != value and (not is_blank(mended) or is_blank(value)):
            yield Splice(span, encode_as(mended, subject.raw[span.start : span.stop]))


def _without_control_tokens(text: str, known: str) -> str:
    """The text without control tokens, also those that come together when others are gone."""
    while tokens := find_control_tokens(text) or ([known] if known and known in text else []):
        for token in tokens:
            text = text.replace(token, "")
    return text


def _content_edit(subject: Subject, row: Row, index: int, mend: Callable[[Any], Any]) -> Iterator[Splice]:
    """Mend the content of a message, if it is written in one place and that place holds nothing else."""
    span = find(subject.raw, row.user_pointer(f"/messages/{index}/content"))
    content = row.value["messages"][index]["content"]
    if span is not None and decode(subject.raw, span) == content:
        yield Splice(span, encode_as(mend(content), subject.raw[span.start : span.stop]))


def _with_placeholders(content: Any, count: int) -> Any:
    if isinstance(content, str):
        return IMAGE_PLACEHOLDER * count + content
    return [*({"type": "image"} for _ in range(count)), *content]


def _without_placeholders(content: Any, count: int) -> Any:
    """The content without its last `count` placeholders; a line break behind one belongs to it."""
    if isinstance(content, str):
        for found in list(_PLACEHOLDER_AND_BREAK.finditer(content))[-count:][::-1]:
            content = content[: found.start()] + content[found.end() :]
        return content
    places = [index for index, part in enumerate(content) if part["type"] == "image"][-count:]
    return [part for index, part in enumerate(content) if index not in places]

"""A canonical record in the making, out of the columns of a record as the user wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kto_data.fields import IMAGE_PLACEHOLDER, RECORD_FIELDS
from kto_data.formats import COLUMNS, Format, Layout, Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One record in canonical spelling."""

    value: dict[str, Any]
    format: Format
    pointers: Mapping[str, str] = field(default_factory=dict)  # canonical -> the user's, where they differ
    missing: tuple[str, ...] = ()  # the user's columns that the format needs and the record lacks
    unread: tuple[str, ...] = ()  # pointers, in the user's spelling, to what no field takes
    unmapped_images: bool = False


UNREAD = "/unread"
"""Before the user's pointer to what no field takes, so that it is not mistaken for the field of that name."""


def user_pointer(pointers: Mapping[str, str], pointer: str) -> str:
    """A canonical JSON Pointer in the user's spelling."""
    if pointer.startswith(f"{UNREAD}/"):
        return pointer.removeprefix(UNREAD)
    head, tail = pointer, ""
    while head:
        if head in pointers:
            return pointers[head] + tail
        head, _, token = head.rpartition("/")
        tail = f"/{token}{tail}"
    return pointer


def escape(token: str) -> str:
    """A key as a token of a JSON Pointer."""
    return token.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class Cell:
    """What a column holds, and the JSON Pointer to it in the user's spelling."""

    value: Any
    pointer: str


class Draft:
    """Takes columns, each of them once, and makes messages and fields of them.

    What nobody took is an unknown field, or absent where only what is mapped counts.
    """

    def __init__(self, row: dict[str, Any], layout: Layout, format: Format) -> None:
        self.layout = layout
        self.format = format
        self.messages: list[Any] | None = None
        self.value: dict[str, Any] = {}
        self.pointers: dict[str, str] = {}
        self.missing: list[str] = []
        self.unread: list[str] = []
        self.is_trl = False  # images without placeholders go where TRL puts them
        self._left = dict(row)

    def take(self, name: str, *, required: bool = False) -> Cell | None:
        """The column that holds `name`, if the record has it."""
        candidates = self.layout.candidates(self.format, name)
        for column in candidates:
            if column in self._left:
                return Cell(self._left.pop(column), f"/{escape(column)}")
        if required:
            self.missing.append(f"/{escape((candidates or COLUMNS[self.format][name])[0])}")
        return None

    def take_filled(self, name: str) -> Cell | None:
        """The same, with null and the empty string taken for absent, as LLaMA-Factory does."""
        cell = self.take(name)
        return None if cell is None or cell.value is None or cell.value == "" else cell

    def has(self, name: str) -> bool:
        """Whether the record has a column that holds `name`."""
        return any(column in self._left for column in self.layout.candidates(self.format, name))

    def set(self, name: str, cell: Cell | None) -> None:
        """Make `cell` the canonical field `name`."""
        if cell is not None:
            self.value[name] = cell.value
            self._point(f"/{name}", cell.pointer)

    def say(self, role: str, text: Any, pointer: str) -> None:
        """Add a message of which only the text was written."""
        self.add({"role": role, "content": text}, pointer, role=pointer, content=pointer)

    def add(self, message: Any, pointer: str, **fields: str) -> None:
        """Add a message. `pointer` and `fields`: where it and its fields are written."""
        if self.messages is None:
            self.messages = []
        here = f"/messages/{len(self.messages)}"
        self.messages.append(message)
        self._point(here, pointer)
        for name, place in fields.items():
            self.pointers[f"{here}/{name}"] = place

    def add_all(self, cell: Cell, tags: Tags | None = None) -> None:
        """Add a list of messages, in the names of `tags` or in canonical ones; what is no list as it is."""
        self.pointers.setdefault("/messages", cell.pointer)
        if not isinstance(cell.value, list):
            self.add(cell.value, cell.pointer)
            return
        self.messages = self.messages or []
        for index, message in enumerate(cell.value):
            self.add_message(Cell(message, f"{cell.pointer}/{index}"), tags)

    def add_message(self, cell: Cell, tags: Tags | None) -> None:
        """Add one message, in the names of `tags` or in canonical ones."""
        message = cell.value
        if tags is None or not isinstance(message, dict):
            self.add(message, cell.pointer)
            return
        renamed, fields = {}, {}
        for name, tag in (("role", tags.role_tag), ("content", tags.content_tag)):
            if tag in message:
                renamed[name] = message[tag]
                fields[name] = f"{cell.pointer}/{escape(tag)}"
        if isinstance(renamed.get("role"), str) and "role" in fields:
            renamed["role"] = tags.roles().get(renamed["role"], renamed["role"])
        for key, value in message.items():
            if key not in (tags.role_tag, tags.content_tag):
                if key in renamed:
                    self.unread.append(f"{cell.pointer}/{escape(key)}")
                else:
                    renamed[key] = value
        if "role" not in fields and "role" not in renamed:
            fields["role"] = f"{cell.pointer}/{escape(tags.role_tag)}"
        if "content" not in fields and "content" not in renamed:
            fields["content"] = f"{cell.pointer}/{escape(tags.content_tag)}"
        self.add(renamed, cell.pointer, **fields)

    def put_images_first(self) -> None:
        """Where nothing says where the images stand, they go in front of the first user message, as in TRL."""
        images, messages = self.value.get("images"), self.messages or []
        if not isinstance(images, list) or any(map(_has_placeholder, messages)):
            return
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
                messages[index] = {**message, "content": IMAGE_PLACEHOLDER * len(images) + message["content"]}
                return

    def finish(self) -> Converted:
        """The canonical record, with the fields that all formats share and what is left over."""
        if self.messages is not None:
            self.value.setdefault("messages", self.messages)
        for name in RECORD_FIELDS:
            if name not in self.value:
                cell = self.take(name) if name != "images" else self.take_filled(name)
                self.set(name, cell)
        unmapped_images = any(self._left.get(column) for column in self.layout.image_columns)
        for column, value in self._left.items() if not self.layout.mapped_only else ():
            if column in self.value or column in RECORD_FIELDS:
                self.unread.append(f"/{escape(column)}")
            else:
                self.value[column] = value
        if "label" not in self.value:
            self._point("/label", f"/{escape((self.layout.candidates(self.format, 'label') or ('label',))[0])}")
        return Converted(
            value=self.value,
            format=self.format,
            pointers=self.pointers,
            missing=tuple(self.missing),
            unread=tuple(self.unread),
            unmapped_images=unmapped_images,
        )

    def _point(self, canonical: str, user: str) -> None:
        if canonical != user:
            self.pointers[canonical] = user


def _has_placeholder(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return any(isinstance(part, dict) and part.get("type") == "image" for part in content)
    return isinstance(content, str) and IMAGE_PLACEHOLDER in content

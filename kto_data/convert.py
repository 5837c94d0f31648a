"""A record of any format in canonical spelling, with the way back to the user's own.

Nothing is judged here: a value whose shape does not fit its format is passed on as far as it goes, and a label is
never touched, so that the schema finds what is wrong and says it at the right place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from kto_data.formats import COLUMNS, Format, Layout, Tags, detect
from kto_data.record import IMAGE_PLACEHOLDER, RECORD_FIELDS

_TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


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


def convert(row: dict[str, Any], layout: Layout) -> tuple[Converted, ...]:
    """The record in canonical spelling; two of a paired one, the chosen answer first."""
    format = layout.format or detect(row, layout)
    if format is Format.MESSAGES and not layout.columns and not layout.mapped_only:
        return (Converted(value=row, format=format),)
    if (format is Format.MESSAGES or layout.mapped_only) and layout.takes_as_is(row.keys()):
        return (Converted(value=row, format=format),)
    if format is Format.PAIRED:
        return tuple(_paired(_Draft(row, layout, format), answer, label) for answer, label in _ANSWERS)
    draft = _Draft(row, layout, format)
    _READERS[format](draft)
    return (draft.finish(),)


@dataclass(frozen=True, slots=True)
class _Cell:
    value: Any
    pointer: str


class _Draft:
    """A record in the making. Each column is taken once; what nobody took is extra, or absent under a mapping."""

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

    def take(self, name: str, *, required: bool = False) -> _Cell | None:
        """The column that holds `name`, if the record has it."""
        candidates = self.layout.candidates(self.format, name)
        for column in candidates:
            if column in self._left:
                return _Cell(self._left.pop(column), f"/{escape(column)}")
        if required:
            self.missing.append(f"/{escape((candidates or COLUMNS[self.format][name])[0])}")
        return None

    def take_filled(self, name: str) -> _Cell | None:
        """The same, with null and the empty string taken for absent, as LLaMA-Factory does."""
        cell = self.take(name)
        return None if cell is None or cell.value is None or cell.value == "" else cell

    def has(self, name: str) -> bool:
        """Whether the record has a column that holds `name`."""
        return any(column in self._left for column in self.layout.candidates(self.format, name))

    def set(self, name: str, cell: _Cell | None) -> None:
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

    def add_all(self, cell: _Cell, tags: Tags | None = None) -> None:
        """Add a list of messages, in the names of `tags` or in canonical ones; what is no list as it is."""
        self.pointers.setdefault("/messages", cell.pointer)
        if not isinstance(cell.value, list):
            self.add(cell.value, cell.pointer)
            return
        self.messages = self.messages or []
        for index, message in enumerate(cell.value):
            self.add_message(_Cell(message, f"{cell.pointer}/{index}"), tags)

    def add_message(self, cell: _Cell, tags: Tags | None) -> None:
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


def _messages(draft: _Draft) -> None:
    draft.set("messages", draft.take("messages", required=True))


def _prompt_completion(draft: _Draft) -> None:
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        cell = draft.take(name, required=True)
        if cell is not None:
            _text_or_messages(draft, cell, role)
    _take_images(draft)
    draft.put_images_first()


def _sharegpt(draft: _Draft) -> None:
    _system(draft)
    cell = draft.take("messages", required=True)
    if cell is not None:
        if isinstance(cell.value, list):
            draft.add_all(cell, draft.layout.tags)
        else:
            draft.set("messages", cell)
    _tools(draft)


def _alpaca(draft: _Draft) -> None:
    _alpaca_prompt(draft)
    output = draft.take("output", required=True)
    if output is not None:
        draft.say("assistant", output.value, output.pointer)
        draft.pointers.setdefault("/messages", output.pointer)
    _tools(draft)


_READERS = {
    Format.MESSAGES: _messages,
    Format.PROMPT_COMPLETION: _prompt_completion,
    Format.SHAREGPT: _sharegpt,
    Format.ALPACA: _alpaca,
}

_ANSWERS = (("chosen", True), ("rejected", False))


def _paired(draft: _Draft, name: str, label: bool) -> Converted:
    """One side of a paired record."""
    sides = {side: draft.take(side, required=side == name) for side, _ in _ANSWERS}
    answer, other = sides[name], sides["rejected" if label else "chosen"]
    if answer is None:
        for column in _PROMPT_COLUMNS:
            draft.take(column)
    else:
        _paired_messages(draft, answer, other)
    draft.value["label"] = label
    _take_images(draft)
    if draft.is_trl:
        draft.put_images_first()
    _tools(draft)
    return draft.finish()


_PROMPT_COLUMNS = ("system", "messages", "prompt", "instruction", "input", "history")


def _paired_messages(draft: _Draft, answer: _Cell, other: _Cell | None) -> None:
    _system(draft)
    conversation, prompt = draft.take("messages"), draft.take("prompt")
    if conversation is not None:
        draft.add_all(conversation, _tags_of(conversation.value, draft.layout))
        if prompt is not None:
            draft.unread.append(prompt.pointer)
    elif prompt is not None:
        draft.is_trl = True
        if not _is_whole(answer.value):
            _text_or_messages(draft, prompt, "user")
        elif not _repeats(answer.value, prompt.value):
            draft.unread.append(prompt.pointer)
    elif draft.has("instruction") or draft.has("input"):
        _alpaca_prompt(draft)
    else:
        draft.is_trl = True
        if isinstance(answer.value, str):
            _split_text(draft, answer, other)
            return
    _answer(draft, answer)


def _answer(draft: _Draft, answer: _Cell) -> None:
    tags = _tags_of(answer.value, draft.layout)
    if isinstance(answer.value, dict):
        draft.add_message(answer, tags)
        draft.pointers.setdefault("/messages", answer.pointer)
    else:
        _text_or_messages(draft, answer, "assistant", tags)


def _split_text(draft: _Draft, answer: _Cell, other: _Cell | None) -> None:
    """Messages of an answer that holds its prompt.

    A transcript (`Human: …`, `Assistant: …`) is split at its turns. Of other texts, what both answers begin with is the
    prompt, up to the last space of it.
    """
    text = answer.value
    draft.pointers.setdefault("/messages", answer.pointer)
    turns = list(_TRANSCRIPT_TURN.finditer(text))
    if turns and turns[0].start() == 0:
        stops = [turn.start() for turn in turns[1:]] + [len(text)]
        for turn, stop in zip(turns, stops, strict=True):
            draft.say(_TRANSCRIPT_ROLES[turn[1]], text[turn.end() : stop], answer.pointer)
        return
    shared = _common_prefix(text, other.value) if other is not None and isinstance(other.value, str) else ""
    cut = len(shared) - len(re.split(r"\s", shared)[-1])
    if cut:
        draft.say("user", text[:cut], answer.pointer)
    draft.say("assistant", text[cut:], answer.pointer)


def _common_prefix(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _text_or_messages(draft: _Draft, cell: _Cell, role: str, tags: Tags | None = None) -> None:
    draft.pointers.setdefault("/messages", cell.pointer)
    if isinstance(cell.value, list):
        draft.add_all(cell, tags)
    else:
        draft.say(role, cell.value, cell.pointer)


def _system(draft: _Draft) -> None:
    cell = draft.take_filled("system")
    if cell is not None:
        draft.say("system", cell.value, cell.pointer)


def _alpaca_prompt(draft: _Draft) -> None:
    _system(draft)
    history = draft.take_filled("history")
    if history is not None:
        _history(draft, history)
    instruction, query = draft.take("instruction"), draft.take_filled("input")
    cells = [cell for cell in (instruction, query) if cell is not None and cell.value != ""]
    odd = next((cell for cell in cells if not isinstance(cell.value, str)), None)
    if odd is not None:
        draft.say("user", odd.value, odd.pointer)
    elif cells:
        draft.say("user", "\n".join(cell.value for cell in cells), cells[0].pointer)
    elif instruction is not None:
        draft.say("user", "", instruction.pointer)
    else:
        draft.take("instruction", required=True)
    if draft.messages:
        draft.pointers.setdefault("/messages", draft.pointers[f"/messages/{len(draft.messages or ()) - 1}"])


def _history(draft: _Draft, history: _Cell) -> None:
    if not isinstance(history.value, list):
        draft.add(history.value, history.pointer)
        return
    for index, turn in enumerate(history.value):
        pointer = f"{history.pointer}/{index}"
        if isinstance(turn, list) and len(turn) == 2:
            draft.say("user", turn[0], f"{pointer}/0")
            draft.say("assistant", turn[1], f"{pointer}/1")
        else:
            draft.add(turn, pointer)


def _take_images(draft: _Draft) -> None:
    images = draft.take_filled("images")
    if images is not None:
        draft.set("images", images)
        return
    image = draft.take_filled("image")
    if image is not None:
        draft.set("images", _Cell([image.value], image.pointer))
        draft.pointers["/images/0"] = image.pointer


def _tools(draft: _Draft) -> None:
    cell = draft.take_filled("tools")
    if cell is None:
        return
    if isinstance(cell.value, str):  # LLaMA-Factory's way: the list as JSON in a string
        with suppress(orjson.JSONDecodeError):
            cell = _Cell(orjson.loads(cell.value), cell.pointer)
    draft.set("tools", cell)


def _tags_of(value: Any, layout: Layout) -> Tags | None:
    """The names that messages are written in; None for canonical ones."""
    first = value[0] if isinstance(value, list) and value else value
    if layout.mapped_only or layout.format is Format.SHAREGPT:
        return layout.tags
    return layout.tags if isinstance(first, dict) and layout.tags.role_tag in first else None


def _has_placeholder(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return any(isinstance(part, dict) and part.get("type") == "image" for part in content)
    return isinstance(content, str) and IMAGE_PLACEHOLDER in content


def _is_whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation: its first message is not the assistant's."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt", None)


def _repeats(answer: list[Any], prompt: Any) -> bool:
    """Whether a whole conversation holds the prompt that is written beside it."""
    if isinstance(prompt, list):
        return answer[: len(prompt)] == prompt
    return any(isinstance(m, dict) and prompt in (m.get("content"), m.get("value")) for m in answer)

"""A record of any format in canonical spelling, with the way back to the user's own.

Nothing is judged here: a value whose shape does not fit its format is passed on as far as it goes, and a label is
never touched, so that the schema finds what is wrong and says it at the right place.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import orjson

from kto_data.draft import Cell, Converted, Draft
from kto_data.formats import Format, Layout, Tags, detect

_TRANSCRIPT_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")
_TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


def convert(row: dict[str, Any], layout: Layout) -> tuple[Converted, ...]:
    """The record in canonical spelling; two of a paired one, the chosen answer first."""
    format = layout.format or detect(row, layout)
    if format is Format.MESSAGES and not layout.columns and not layout.mapped_only:
        return (Converted(value=row, format=format),)
    if (format is Format.MESSAGES or layout.mapped_only) and layout.takes_as_is(row.keys()):
        return (Converted(value=row, format=format),)
    if format is Format.PAIRED:
        return tuple(_paired(Draft(row, layout, format), answer, label) for answer, label in _ANSWERS)
    draft = Draft(row, layout, format)
    _READERS[format](draft)
    return (draft.finish(),)


def _messages(draft: Draft) -> None:
    draft.set("messages", draft.take("messages", required=True))


def _prompt_completion(draft: Draft) -> None:
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        cell = draft.take(name, required=True)
        if cell is not None:
            _text_or_messages(draft, cell, role)
    _take_images(draft)
    draft.put_images_first()


def _sharegpt(draft: Draft) -> None:
    _system(draft)
    cell = draft.take("messages", required=True)
    if cell is not None:
        if isinstance(cell.value, list):
            draft.add_all(cell, draft.layout.tags)
        else:
            draft.set("messages", cell)
    _tools(draft)


def _alpaca(draft: Draft) -> None:
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


def _paired(draft: Draft, name: str, label: bool) -> Converted:
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


def _paired_messages(draft: Draft, answer: Cell, other: Cell | None) -> None:
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


def _answer(draft: Draft, answer: Cell) -> None:
    tags = _tags_of(answer.value, draft.layout)
    if isinstance(answer.value, dict):
        draft.add_message(answer, tags)
        draft.pointers.setdefault("/messages", answer.pointer)
    else:
        _text_or_messages(draft, answer, "assistant", tags)


def _split_text(draft: Draft, answer: Cell, other: Cell | None) -> None:
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


def _text_or_messages(draft: Draft, cell: Cell, role: str, tags: Tags | None = None) -> None:
    draft.pointers.setdefault("/messages", cell.pointer)
    if isinstance(cell.value, list):
        draft.add_all(cell, tags)
    else:
        draft.say(role, cell.value, cell.pointer)


def _system(draft: Draft) -> None:
    cell = draft.take_filled("system")
    if cell is not None:
        draft.say("system", cell.value, cell.pointer)


def _alpaca_prompt(draft: Draft) -> None:
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


def _history(draft: Draft, history: Cell) -> None:
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


def _take_images(draft: Draft) -> None:
    images = draft.take_filled("images")
    if images is not None:
        draft.set("images", images)
        return
    image = draft.take_filled("image")
    if image is not None:
        draft.set("images", Cell([image.value], image.pointer))
        draft.pointers["/images/0"] = image.pointer


def _tools(draft: Draft) -> None:
    cell = draft.take_filled("tools")
    if cell is None:
        return
    if isinstance(cell.value, str):  # LLaMA-Factory's way: the list as JSON in a string
        with suppress(orjson.JSONDecodeError):
            cell = Cell(orjson.loads(cell.value), cell.pointer)
    draft.set("tools", cell)


def _tags_of(value: Any, layout: Layout) -> Tags | None:
    """The names that messages are written in; None for canonical ones."""
    first = value[0] if isinstance(value, list) and value else value
    if layout.mapped_only or layout.format is Format.SHAREGPT:
        return layout.tags
    return layout.tags if isinstance(first, dict) and layout.tags.role_tag in first else None


def _is_whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation: its first message is not the assistant's."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt", None)


def _repeats(answer: list[Any], prompt: Any) -> bool:
    """Whether a whole conversation holds the prompt that is written beside it."""
    if isinstance(prompt, list):
        return answer[: len(prompt)] == prompt
    return any(isinstance(m, dict) and prompt in (m.get("content"), m.get("value")) for m in answer)

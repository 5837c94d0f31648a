"""The chat template of a model: a record to the text that it writes, image placeholders not expanded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kto_data.record import ImagePart, Message, Part, Record


@dataclass(frozen=True, slots=True)
class Rendered:
    """A record as the chat template writes it; image placeholders are not expanded yet."""

    alone: str  # the prompt by itself, ready for an answer
    whole: str  # the prompt with its completion

    def split(self) -> tuple[str, str]:
        """Prompt and completion: the longest common beginning of the two, and the rest of the whole."""
        num_shared = common_prefix_length(self.alone, self.whole)
        return self.whole[:num_shared], self.whole[num_shared:]


def render_all(processing_class: Any, records: Sequence[Record], *, with_images: bool) -> list[Rendered | ValueError]:
    """The prompt and the conversation of each record as the chat template of `processing_class` writes them.

    In the place of a record that it refuses is an error.

    They are what TRL renders. Its vision collator splits them where the texts part (`Rendered.split`); its tokenizing
    step for text models splits their ids. (The collator leaves `tools` out; here they are rendered, as TRL's text path
    does.)
    """
    conversations = [_conversation(record, with_images=with_images) for record in records]
    together = _render_plain(processing_class, [one for one in conversations if one.is_plain])
    if together is None:
        return [_render(processing_class, one) for one in conversations]
    plain = iter(together)
    return [next(plain) if one.is_plain else _render(processing_class, one) for one in conversations]


@dataclass(frozen=True, slots=True)
class _Conversation:
    """A record as templates take it."""

    messages: list[dict[str, Any]]
    ends_open: bool  # its prompt ends within the assistant's turn, which the completion goes on with
    tools: list[dict[str, Any]] | None
    options: dict[str, Any]  # the record's own arguments of the template

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """All but the completion."""
        return self.messages[:-1]

    @property
    def is_plain(self) -> bool:
        """Whether it is rendered as most are: it can be together with others."""
        return not (self.ends_open or self.tools or self.options)


def _conversation(record: Record, *, with_images: bool) -> _Conversation:
    messages = [_template_message(message, with_images=with_images) for message in record.messages]
    ends_open = record.prompt[-1].role == "assistant" and with_images
    tools = list(record.tools) if record.tools else None
    return _Conversation(messages, ends_open, tools, record.chat_template_kwargs or {})


def _render_plain(processing_class: Any, plain: Sequence[_Conversation]) -> list[Rendered] | None:
    """Conversations without options of their own, rendered in one call, which is much faster; None where one of them is
    refused."""
    if not plain:
        return []
    keys = [orjson.dumps(one.prompt) for one in plain]
    prompts = dict(zip(keys, (one.prompt for one in plain), strict=True))  # answers to one prompt often come together
    try:
        alone = _apply(processing_class, list(prompts.values()), add_generation_prompt=True)
        whole = _apply(processing_class, [one.messages for one in plain])
    except ValueError:
        return None
    by_key = dict(zip(prompts, alone, strict=True))
    return [Rendered(by_key[key], text) for key, text in zip(keys, whole, strict=True)]


def _render(processing_class: Any, one: _Conversation) -> Rendered | ValueError:
    open_or_not = {"add_generation_prompt": not one.ends_open, "continue_final_message": one.ends_open}
    try:
        (alone,) = _apply(processing_class, [one.prompt], one, **open_or_not)
        (whole,) = _apply(processing_class, [one.messages], one)
    except ValueError as error:
        return error
    return Rendered(alone, whole)


def common_prefix_length(left: Sequence[object], right: Sequence[object]) -> int:
    """How many leading items (ids, characters) two sequences share."""
    if right[: len(left)] == left:
        return len(left)
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def _apply(
    processing_class: Any, lists: list[list[dict[str, Any]]], of: _Conversation | None = None, **how: bool
) -> list[str]:
    """The text of each list of messages, rendered with the arguments of the conversation that they are of. Raises
    `ValueError` where the template refuses one of them."""
    # Templates are the model author's code: Jinja raises its own errors, `raise_exception` in a template too, and a
    # filter on a wrong type gives a TypeError. All of them mean: this record cannot be rendered.
    import jinja2

    try:
        texts: list[str] = processing_class.apply_chat_template(
            lists, tools=of and of.tools, tokenize=False, **how, **(of.options if of else {})
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return texts


def _template_message(message: Message, *, with_images: bool) -> dict[str, Any]:
    if not with_images:
        # Templates of text models take strings: some raise on lists of parts, others print the list as it is.
        text = message.content if isinstance(message.content, str) else _joined_text(message)
        return {"role": message.role, "content": text}
    if isinstance(message.content, str) and not message.num_images():
        return {"role": message.role, "content": [{"type": "text", "text": message.content}]}
    return {"role": message.role, "content": [_template_part(part) for part in message.parts()]}


def _template_part(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if part.type == "text" else {"type": "image"}


def _joined_text(message: Message) -> str:
    return "".join(part.text for part in message.parts() if not isinstance(part, ImagePart))

"""The chat template of a model: a record to the text that it writes, image placeholders not expanded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kto_data.record import ImagePart, Message, Record


@dataclass(frozen=True, slots=True)
class Rendered:
    """A record as the chat template writes it; image placeholders are not expanded yet."""

    alone: str  # the prompt by itself, ready for an answer
    whole: str  # the prompt with its completion

    def split(self) -> tuple[str, str]:
        """Prompt and completion: the longest common beginning of the two, and the rest of the whole."""
        num_shared = common_prefix_length(self.alone, self.whole)
        return self.whole[:num_shared], self.whole[num_shared:]


def render(processing_class: Any, record: Record, *, with_images: bool) -> Rendered:
    """The prompt and the conversation as the chat template of `processing_class` writes them.

    They are what TRL renders. Its vision collator splits them where the texts part (`Rendered.split`); its tokenizing
    step for text models splits their ids. (The collator leaves `tools` out; here they are rendered, as TRL's text path
    does.)

    Raises `ValueError` when the template refuses the record.
    """
    prompt_messages = [_template_message(message, with_images=with_images) for message in record.prompt]
    messages = [*prompt_messages, _template_message(record.completion, with_images=with_images)]
    ends_open = record.prompt[-1].role == "assistant" and with_images
    alone = _apply(
        processing_class,
        record,
        prompt_messages,
        add_generation_prompt=not ends_open,
        continue_final_message=ends_open,
    )
    return Rendered(alone, _apply(processing_class, record, messages))


def common_prefix_length(left: Sequence[object], right: Sequence[object]) -> int:
    """How many leading items (ids, characters) two sequences share."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def _apply(processing_class: Any, record: Record, messages: list[dict[str, Any]], **options: bool) -> str:
    # Templates are the model author's code: Jinja raises its own errors, `raise_exception` in a template too, and a
    # filter on a wrong type gives a TypeError. All of them mean: this record cannot be rendered.
    import jinja2

    try:
        text = processing_class.apply_chat_template(
            messages,
            tools=list(record.tools) if record.tools else None,
            tokenize=False,
            **options,
            **(record.chat_template_kwargs or {}),
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from error
    return str(text)


def _template_message(message: Message, *, with_images: bool) -> dict[str, Any]:
    if not with_images:
        # Templates of text models take strings: some raise on lists of parts, others print the list as it is.
        text = message.content if isinstance(message.content, str) else _joined_text(message)
        return {"role": message.role, "content": text}
    if isinstance(message.content, str) and not message.num_images():
        return {"role": message.role, "content": [{"type": "text", "text": message.content}]}
    return {"role": message.role, "content": [part.model_dump() for part in message.parts()]}


def _joined_text(message: Message) -> str:
    return "".join(part.text for part in message.parts() if not isinstance(part, ImagePart))

"""The canonical record: one KTO sample as the user writes it, one JSON object a line.

Pydantic is strict here because lax pydantic turns `"off"`, `"t"`, `1` and `0.0` into a label without a word.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kto_data.fields import IMAGE_PLACEHOLDER

Role = Literal["system", "user", "assistant", "tool"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(_Strict):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    """The place of the next entry of `images` in a message."""

    type: Literal["image"]


Part = TextPart | ImagePart

_IMAGE = ImagePart(type="image")


class Message(_Strict):
    """One chat turn."""

    role: Role
    content: str | tuple[Part, ...] = Field(
        description="Text with one `<image>` for each image, or a list of text and image parts."
    )

    def parts(self) -> tuple[Part, ...]:
        """The content as parts, whichever way it was written; empty text is left out."""
        if not isinstance(self.content, str):
            return self.content
        parts: list[Part] = []
        for index, text in enumerate(self.content.split(IMAGE_PLACEHOLDER)):
            if index:
                parts.append(_IMAGE)
            if text:
                parts.append(TextPart.model_construct(type="text", text=text))
        return tuple(parts)

    def texts(self) -> list[str]:
        """The pieces of text of the content, before, between and after its images; empty ones are left out."""
        if isinstance(self.content, str):
            return [text for text in self.content.split(IMAGE_PLACEHOLDER) if text]
        return [part.text for part in self.content if part.type == "text" and part.text]

    def num_images(self) -> int:
        """How many image placeholders the message holds."""
        if isinstance(self.content, str):
            return self.content.count(IMAGE_PLACEHOLDER)
        return sum(part.type == "image" for part in self.content)


class Record(_Strict):
    """One answer, labelled desirable (`true`) or undesirable (`false`)."""

    messages: tuple[Message, ...] = Field(
        min_length=2,
        description="An optional first `system` message, then the conversation; the last message is the assistant's "
        "answer, which is the completion, and all before it is the prompt.",
    )
    label: bool = Field(description="true = desirable, false = undesirable; nothing else is a label.")
    images: tuple[str, ...] = Field(
        default=(), description="Image paths relative to the image root, in the order of the placeholders."
    )
    id: str | int | None = None
    source: str | None = Field(default=None, description="Where the answer comes from; reports count by it.")
    tools: tuple[dict[str, Any], ...] | None = Field(default=None, description="Tool schemas for the chat template.")
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="Anything; carried through to reports.")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All messages before the completion."""
        return self.messages[:-1]

    @property
    def completion(self) -> Message:
        """The answer that the label judges."""
        return self.messages[-1]

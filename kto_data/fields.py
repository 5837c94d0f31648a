"""The words of a record: its fields, the roles, the image placeholder.

Apart from `record`, so that data in which nothing is wrong need not wait for pydantic; a test holds the two together.
"""

from __future__ import annotations

IMAGE_PLACEHOLDER = "<image>"
"""Where an image stands in a message whose content is a string."""

ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")

RECORD_FIELDS: tuple[str, ...] = (
    "messages",
    "label",
    "images",
    "id",
    "source",
    "tools",
    "chat_template_kwargs",
    "metadata",
)
REQUIRED_FIELDS: tuple[str, ...] = ("messages", "label")
MESSAGE_FIELDS: tuple[str, ...] = ("role", "content")
"""Of a message; both are required."""

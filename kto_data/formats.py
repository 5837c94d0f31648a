"""The formats records come in, and how a user says which columns hold what.

`Layout` is what the user said; `detect` tells the format of a record where nothing was said; `convert` (next door)
brings a record of any of them into the canonical spelling.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from kto_data.errors import UsageError
from kto_data.fields import RECORD_FIELDS, ROLES


class Format(StrEnum):
    """How a record is spelt."""

    MESSAGES = "messages"  # the canonical one, see `record`
    PROMPT_COMPLETION = "prompt-completion"  # TRL's unpaired rows: prompt, completion, label
    SHAREGPT = "sharegpt"  # conversations of from and value, kto_tag
    ALPACA = "alpaca"  # instruction, input, output, kto_tag
    PAIRED = "paired"  # chosen and rejected: two records, the chosen one desirable


AUTO = "auto"
"""The format name that means: detect it, record by record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The names inside the messages of sharegpt records; LLaMA-Factory's names and defaults."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"

    def roles(self) -> dict[str, str]:
        """The user's role names to the canonical ones. A function call is something that the assistant says."""
        return {
            self.function_tag: "assistant",
            self.observation_tag: "tool",
            self.system_tag: "system",
            self.assistant_tag: "assistant",
            self.user_tag: "user",
        }

    def are_canonical(self) -> bool:
        """Whether messages in these names are canonical messages as they stand."""
        roles = self.roles()
        return (self.role_tag, self.content_tag) == ("role", "content") and all(roles.get(r, r) == r for r in ROLES)


_SHARED_COLUMNS: dict[str, tuple[str, ...]] = {
    name: (name,) for name in RECORD_FIELDS if name not in ("messages", "label")
}
_CHAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("conversations", "messages"),
    "system": ("system",),
}
_ALPACA_COLUMNS: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output",),
    "history": ("history",),
    "system": ("system",),
}
COLUMNS: dict[Format, dict[str, tuple[str, ...]]] = {
    Format.MESSAGES: {"messages": ("messages",), "label": ("label",), **_SHARED_COLUMNS},
    Format.PROMPT_COMPLETION: {
        "prompt": ("prompt",),
        "completion": ("completion",),
        "label": ("label",),
        "image": ("image",),
        **_SHARED_COLUMNS,
    },
    Format.SHAREGPT: {**_CHAT_COLUMNS, "label": ("kto_tag", "label"), **_SHARED_COLUMNS},
    Format.ALPACA: {**_ALPACA_COLUMNS, "label": ("kto_tag", "label"), **_SHARED_COLUMNS},
    Format.PAIRED: {
        "chosen": ("chosen",),
        "rejected": ("rejected",),
        "prompt": ("prompt",),
        **_CHAT_COLUMNS,
        **_ALPACA_COLUMNS,
        "image": ("image",),
        **_SHARED_COLUMNS,
    },
}
"""What each format reads, by our names, and the columns where each is found, the first that a record has."""

COLUMN_NAMES: frozenset[str] = frozenset(name for columns in COLUMNS.values() for name in columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How to read the records of a file. Picklable."""

    format: Format | None = None  # None: detected, record by record
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the user's column
    tags: Tags = Tags()
    mapped_only: bool = False  # from a dataset_info.json: a column that `columns` does not name is absent

    def candidates(self, format: Format, name: str) -> tuple[str, ...]:
        """The columns in which `name` is looked for."""
        if name in self.columns:
            return (self.columns[name],)
        return () if self.mapped_only else COLUMNS[format].get(name, ())

    def takes_as_is(self, columns: Collection[str]) -> bool:
        """Whether a record of these columns already is what `convert` would make of it."""
        return self._canonical_columns.issuperset(columns)

    @property
    def _canonical_columns(self) -> frozenset[str]:
        return _canonical_columns(self.format, tuple(self.columns.items()), self.tags, self.mapped_only)

    @property
    def image_columns(self) -> tuple[str, ...]:
        """The columns that a mapping must not leave out where they hold something."""
        return () if not self.mapped_only or "images" in self.columns else ("images", "image")


@lru_cache(maxsize=64)
def _canonical_columns(
    format: Format | None, columns: tuple[tuple[str, str], ...], tags: Tags, mapped_only: bool
) -> frozenset[str]:
    if any(name != column for name, column in columns):
        return frozenset()
    if mapped_only:
        is_canonical = format is Format.SHAREGPT and tags.are_canonical()
        return frozenset(dict(columns)).intersection(("messages", "label", "images")) if is_canonical else frozenset()
    return frozenset(RECORD_FIELDS) if format in (None, Format.MESSAGES) else frozenset()


def make_layout(format_name: str = AUTO, columns: Mapping[str, str] | None = None) -> Layout:
    """The layout of `--format` and `--map`. `columns`: our name -> the user's column.

    Raises `UsageError` on an unknown format or name, with the name that was probably meant.
    """
    columns = dict(columns or {})
    if format_name != AUTO and format_name not in list(Format):
        raise UsageError(
            f"unknown format '{format_name}'",
            hint=_meant(format_name, [AUTO, *Format]) or f"one of {AUTO}, {', '.join(Format)}",
        )
    format = None if format_name == AUTO else Format(format_name)
    known = COLUMN_NAMES if format is None else COLUMNS[format].keys()
    which = "no format has" if format is None else f"the format {format} has no"
    for name, column in columns.items():
        if name not in known:
            raise UsageError(
                f"cannot map '{name}': {which} such a field",
                hint=_meant(name, known) or f"known are {', '.join(sorted(known))}",
            )
        if not column:
            raise UsageError(f"'{name}' is mapped to a column without a name", hint="name the column that holds it")
    return Layout(format=format, columns=columns)


def detect(row: Mapping[str, Any], layout: Layout) -> Format:
    """The format of a record, by its columns; the canonical one where nothing speaks for another."""
    named = {column: name for name, column in layout.columns.items()}
    keys = {named.get(key, key) for key in row}
    sides = keys & {"chosen", "rejected"}
    if len(sides) == 2 or (sides and not keys & {"label", "kto_tag", "completion", "output"}):
        return Format.PAIRED
    if "conversations" in keys:
        return Format.SHAREGPT
    if "messages" in keys:
        messages = row.get(layout.columns.get("messages", "messages"))
        return Format.SHAREGPT if _is_sharegpt(messages, layout.tags) else Format.MESSAGES
    if keys & {"prompt", "completion"}:
        return Format.PROMPT_COMPLETION
    if keys & {"instruction", "output"}:
        return Format.ALPACA
    return Format.MESSAGES


def _is_sharegpt(messages: Any, tags: Tags) -> bool:
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and {tags.role_tag, tags.content_tag} <= first.keys() and "role" not in first


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else ""

"""Wording shared by the rules: kinds of JSON values, JSON Pointers, likeness of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_MAX_SHOWN = 200  # characters of a path


def kind(value: Any) -> str:
    """What a JSON value is, in words; never its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, dict) else "a list"


def last_token(pointer: str) -> str:
    """The last key of a JSON Pointer, unescaped."""
    return pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~")


def shown_path(path: str) -> str:
    """A path in quotation marks, the middle left out of one that is too long to be read."""
    if len(path) > _MAX_SHOWN:
        path = f"{path[: _MAX_SHOWN // 2]}…{path[-_MAX_SHOWN // 2 :]}"
    return f"'{path}'"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is most likely a misspelling of, if any is like it."""
    matches = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return matches[0] if matches else None


def edit_distance(left: str, right: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours (each counts 1) between two short words."""
    before: list[int] = []
    above = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            cost = min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]


def counted(count: int, noun: str) -> str:
    """ "1 image", "2 images", "1,200 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

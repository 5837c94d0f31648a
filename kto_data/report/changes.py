"""How what a cache is made from differs from what it was made from before: each part by name, with both values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_HASH_SHOWN = 8  # digits: enough to tell two of them apart
_LONG = 40  # characters of a value from which only what differs is shown

Change = tuple[str, Any, Any]
"""The name of a part of a fingerprint, its old value and its new one."""


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """One line a part that changed."""
    # Which bytes are in the shards follows from the other parts, or from the images, which are no part by themselves.
    named = [change for change in changes if change[0] != "shards"]
    for name, before, now in named:
        yield name + "".join(f", {words}" for words in _differences(before, now))
    if changes and not named:
        yield "images"


def _differences(before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, list) and isinstance(now, list):
        if any(isinstance(entry, dict) for entry in [*before, *now]):
            yield from _differences(_by_path(before), _by_path(now))
        elif len(before) == len(now):
            yield from dict.fromkeys(_pair(*pair) for pair in zip(before, now, strict=True) if pair[0] != pair[1])
        else:
            yield f"{len(before):,} -> {len(now):,}"
    elif isinstance(before, dict) and isinstance(now, dict):
        for name in before | now:
            if before.get(name) != now.get(name):
                yield f"{name} {_pair(before.get(name), now.get(name))}"
    else:
        yield _pair(before, now)


def _by_path(files: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The hash of each input file by its split and path."""
    return {f"{file['split']} {file['path']}": file["sha256"] for file in files}


def _pair(before: Any, now: Any) -> str:
    old, new = str(before), str(now)
    if min(len(old), len(new)) > _LONG and not _HASH.fullmatch(old):
        start = _num_alike(old, new)
        end = _num_alike(old[start:][::-1], new[start:][::-1])
        old, new = (f"…{text[start : len(text) - end]}…" for text in (old, new))
    return " -> ".join(text[:_HASH_SHOWN] if _HASH.fullmatch(text) else text for text in (old, new))


def _num_alike(left: str, right: str) -> int:
    """The length of the beginning that two texts share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))

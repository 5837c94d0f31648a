"""What compiled code says of lines, before any other looks at them: which are plain records, and their columns.

    bytes, line ends ─▶ read_plain ─▶ Sifted

The code is `scan.c`, which says what plain is: most lines of a large file. It is compiled when the package is
installed. Where there was no C compiler, all lines are doubtful, and what takes longer says the same of each.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import orjson

from kto_data.digest import add_text, as_json, seed_of
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.json_array import MAX_COMMAS
from kto_data.rules.chat import are_in_order
from kto_data.rules.control_tokens import TOKEN_BEGINNINGS

try:
    from kto_data._scan import CONTRACT, scan
except ImportError:
    CONTRACT = 0
if CONTRACT != 1:  # it was not compiled, or from another scan.c than the one beside this file
    scan = None  # type: ignore[assignment]

ROLES = ("system", "user", "assistant", "tool")  # by their digits in `scan`
PLACEHOLDER = IMAGE_PLACEHOLDER.encode()
BEGINNINGS = {**TOKEN_BEGINNINGS, PLACEHOLDER[:1]: TOKEN_BEGINNINGS[PLACEHOLDER[:1]] | {PLACEHOLDER[:3]}}
"""The first three bytes of every control token and of the placeholder, by the first one."""
_BEGINNINGS = b"".join(frozenset().union(*BEGINNINGS.values()))
_LINE = 6  # numbers that are said of a line
_MESSAGE_BYTES = 29  # of the shortest one


@dataclass(slots=True)
class Sifted:
    """What is known of some lines. Columns have an entry for each line that is not doubtful, in their order."""

    prompts: list[int] = field(default_factory=list)  # 64-bit numbers, see `kto_data.digest`
    completions: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of completions, in characters
    shapes: list[tuple[bool, int, int, str]] = field(default_factory=list)  # see `Shape`
    images: dict[int, list[str]] = field(default_factory=dict)  # by place in the columns: of records that have any
    doubtful: list[int] = field(default_factory=list)  # indices of the lines that need a closer look, ascending


def read_plain(data: bytes, ends: Sequence[int], *, may_have_more: bool = True) -> Sifted:
    """The columns of the plain lines of `data`, whose ends are given; all others are doubtful. So are those with other
    fields than the messages and the label, unless they `may_have_more`."""
    if scan is None:
        return Sifted(doubtful=list(range(len(ends))))
    lines = array("q", bytes(8 * _LINE * len(ends)))
    bounds = array("q", bytes(8 * 2 * (len(data) // _MESSAGE_BYTES)))
    del bounds[scan(data, array("q", ends), _BEGINNINGS, MAX_COMMAS, may_have_more, lines, bounds) :]
    sifted = Sifted()
    numbers, places = iter(lines.tolist()), iter(bounds.tolist())
    spans = zip(places, places, strict=True)
    for index, (roles, label, is_escaped, length, source, source_stop) in enumerate(
        zip(*[numbers] * _LINE, strict=True)
    ):
        if not roles:
            sifted.doubtful.append(index)
            continue
        num_messages, prompt, is_in_order = _turns(roles)
        texts = [data[start:stop] for start, stop in islice(spans, num_messages)]
        if not is_in_order:
            sifted.doubtful.append(index)
            continue
        if is_escaped:
            texts = [as_json(orjson.loads(text)) for text in texts]
        completion = texts.pop()
        for text in texts:
            prompt = add_text(text, prompt)
        sifted.prompts.append(prompt)
        sifted.completions.append(add_text(completion))
        sifted.lengths.append(length)
        sifted.shapes.append((label == 1, num_messages, 0, orjson.loads(data[source:source_stop]) if source else ""))
    return sifted


@lru_cache(maxsize=4096)
def _turns(roles: int) -> tuple[int, int, bool]:
    """How many messages have these roles, what the number of their prompt begins with, and whether they take turns as
    they should."""
    names = []
    while roles > 1:
        names.append(ROLES[roles % 4])
        roles //= 4
    names.reverse()
    return len(names), seed_of(tuple(names)), are_in_order(names)

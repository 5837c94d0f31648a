"""What is counted at the speed of memory is what counting by hand gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kto_data.marks import count_delimiters, find_beginnings, line_ends

_TEXTS = st.text(alphabet='"\\\n\t/u{}[]:, aé\u2028😀', max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _num_strings(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_num_strings, value.values()))
    if isinstance(value, list):
        return sum(map(_num_strings, value))
    return isinstance(value, str)


@given(value=_JSON, ascii_only=st.booleans())
def test_each_string_has_two_delimiters(value: Any, ascii_only: bool) -> None:
    assert count_delimiters(json.dumps(value, ensure_ascii=ascii_only).encode()) == 2 * _num_strings(value)


@given(st.binary(max_size=30) | st.text(alphabet="a\n\r", max_size=30).map(str.encode))
def test_line_ends_are_where_lines_are_divided(data: bytes) -> None:
    ends = line_ends(data)
    starts = [0, *(end + 1 for end in ends)]
    assert [data[start:stop] for start, stop in zip(starts, [*ends, len(data)], strict=True)] == data.split(b"\n")


@given(st.text(alphabet="<[abI|", max_size=30).map(str.encode))
def test_beginnings_are_found_wherever_they_are(data: bytes) -> None:
    found = sorted(find_beginnings(data, {b"<": {b"<|a", b"<ab"}, b"[": {b"[Ia"}}))
    assert found == [at for at in range(len(data)) if data[at : at + 3] in (b"<|a", b"<ab", b"[Ia")]

"""What is counted at the speed of memory is what counting by hand gives."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_data import marks
from kto_data.marks import are_objects_apart, count_delimiters, find_beginnings, line_ends

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


@pytest.mark.parametrize("least", [0, sys.maxsize])
@given(value=_JSON, ascii_only=st.booleans())
def test_each_string_has_two_delimiters(value: Any, ascii_only: bool, least: int) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:  # so that few bytes are counted either way
        patch.setattr(marks, "_LONG", least)
        patch.setattr(marks, "_MANY", least)
        assert count_delimiters(raw) == 2 * _num_strings(value)


@given(st.binary(max_size=30) | st.text(alphabet="a\n\r", max_size=30).map(str.encode))
def test_line_ends_are_where_lines_are_divided(data: bytes) -> None:
    ends = line_ends(data)
    starts = [0, *(end + 1 for end in ends)]
    assert [data[start:stop] for start, stop in zip(starts, [*ends, len(data)], strict=True)] == data.split(b"\n")


@given(
    st.lists(st.sampled_from([b"{}", b"{ }", b" {}", b"{} ", b"{", b"}", b"", b"[]", b"{}\r"]), max_size=4),
    st.booleans(),
)
def test_objects_are_apart_where_each_line_is_one_from_brace_to_brace(lines: list[bytes], ended: bool) -> None:
    data = b"\n".join(lines) + b"\n" * ended
    told = are_objects_apart(data, line_ends(data))
    whole = data.removesuffix(b"\n").split(b"\n")
    assert told is all(line[:1] == b"{" and line[-1:] == b"}" for line in whole)


@given(st.text(alphabet="<[abI|", max_size=30).map(str.encode))
def test_beginnings_are_found_wherever_they_are(data: bytes) -> None:
    found = sorted(find_beginnings(data, {b"<": {b"<|a", b"<ab"}, b"[": {b"[Ia"}}))
    assert found == [at for at in range(len(data)) if data[at : at + 3] in (b"<|a", b"<ab", b"[Ia")]

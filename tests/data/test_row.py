from __future__ import annotations

import json
import pickle
import sys
from typing import Any

import orjson
import pytest
from conftest import make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_data.chunk import Line
from kto_data.formats import Layout, make_layout
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.read import MAX_DEPTH, count_keys, is_plain, may_repeat_keys, read_rows
from kto_data.record import Record
from kto_data.row import MessageView, Row, SchemaError, SyntaxFact, SyntaxProblem


def rows(raw: bytes | dict[str, Any], layout: Layout | None = None, *, problem: str = "") -> tuple[Row, ...]:
    raw = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return read_rows(Line("data.jsonl", 7, 0, raw, problem), layout or make_layout())


def row(raw: bytes | dict[str, Any], layout: Layout | None = None) -> Row:
    (only,) = rows(raw, layout)
    return only


def facts(raw: bytes) -> list[tuple[SyntaxProblem, str]]:
    return [(fact.problem, fact.pointer) for fact in row(raw).facts]


def errors(value: dict[str, Any], layout: Layout | None = None) -> list[tuple[str, str]]:
    return [(error.type, error.pointer) for error in row(value, layout).schema_errors]


def test_a_good_line_gives_its_record_and_nothing_else() -> None:
    good = row(make_record(id="a1"))
    assert good.record == Record.model_validate_json(json.dumps(make_record(id="a1")))
    assert (good.facts, good.schema_errors, good.record_id, good.label) == ((), (), "a1", True)
    assert good.value == make_record(id="a1")


def test_rows_travel_between_processes() -> None:
    good = row(make_record())
    assert pickle.loads(pickle.dumps(good)) == good


RECORD = json.dumps(make_record()).encode()


def with_metadata(text: bytes) -> bytes:
    return RECORD[:-1] + b', "metadata": ' + text + b"}"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", [(SyntaxProblem.BLANK_LINE, "")]),
        (b" \t ", [(SyntaxProblem.BLANK_LINE, "")]),
        (RECORD[:-1], [(SyntaxProblem.INVALID_JSON, "")]),
        (RECORD + b"x", [(SyntaxProblem.INVALID_JSON, "")]),
        (RECORD + RECORD, [(SyntaxProblem.INVALID_JSON, "")]),
        (RECORD.replace(b"What", b"Wh\x00at"), [(SyntaxProblem.INVALID_JSON, "")]),
        (b"{'label': true}", [(SyntaxProblem.INVALID_JSON, "")]),
        (b'{"label": 01}', [(SyntaxProblem.INVALID_JSON, "")]),
        (b"[" * 100_000, [(SyntaxProblem.INVALID_JSON, "")]),
        (with_metadata(b"[" * 100_000 + b"]" * 100_000), [(SyntaxProblem.INVALID_JSON, "")]),
        (with_metadata(b'{"a":' * 500 + b"1" + b"}" * 500), [(SyntaxProblem.INVALID_JSON, "")]),
        (with_metadata(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH), [(SyntaxProblem.INVALID_JSON, "")]),
        (RECORD.replace(b"What", b"Wh\xe9t"), [(SyntaxProblem.INVALID_UTF8, "")]),
        (RECORD.decode().encode("utf-16"), [(SyntaxProblem.INVALID_UTF8, ""), (SyntaxProblem.INVALID_JSON, "")]),
        (BYTE_ORDER_MARK + RECORD, [(SyntaxProblem.BYTE_ORDER_MARK, "")]),
        (BYTE_ORDER_MARK, [(SyntaxProblem.BYTE_ORDER_MARK, ""), (SyntaxProblem.BLANK_LINE, "")]),
        (b"[1]", [(SyntaxProblem.NOT_AN_OBJECT, "")]),
        (b"null", [(SyntaxProblem.NOT_AN_OBJECT, "")]),
        (b"NaN", [(SyntaxProblem.NON_FINITE_NUMBER, ""), (SyntaxProblem.NOT_AN_OBJECT, "")]),
        (RECORD[:-1] + b', "label": false}', [(SyntaxProblem.DUPLICATE_KEY, "/label")]),
        (RECORD[:-1] + b',"label" \t: false}', [(SyntaxProblem.DUPLICATE_KEY, "/label")]),
        (RECORD[:-1] + b',"l\\u0061bel":false}', [(SyntaxProblem.DUPLICATE_KEY, "/label")]),
        (with_metadata(b'[{"a/b": 1, "a/b": 2}]'), [(SyntaxProblem.DUPLICATE_KEY, "/metadata/0/a~1b")]),
        (with_metadata(b'{"a": NaN}'), [(SyntaxProblem.NON_FINITE_NUMBER, "/metadata/a")]),
        (with_metadata(b'{"a": [-Infinity]}'), [(SyntaxProblem.NON_FINITE_NUMBER, "/metadata/a/0")]),
        (with_metadata(b'{"a": 1e999}'), [(SyntaxProblem.NON_FINITE_NUMBER, "/metadata/a")]),
        (RECORD.replace(b"What", b"\\ud83d"), [(SyntaxProblem.LONE_SURROGATE, "/messages/0/content")]),
        (with_metadata(b'{"\\udc00": 1}'), [(SyntaxProblem.LONE_SURROGATE, "/metadata/?")]),
        (RECORD.replace(b"What", b"\\ud83d\\ude00"), []),
        (with_metadata(b'{"a": ' + b"9" * 300 + b"}"), []),
        (with_metadata(b'{"a" : {"b" : " :"}}'), []),
        (with_metadata(b'{"a":{"b":"\\": :"}}'), []),
        (b"\n" + RECORD + b"\r\n", []),
    ],
)
def test_each_defect_of_the_bytes_is_a_fact_at_its_place(raw: bytes, expected: list[Any]) -> None:
    assert facts(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        RECORD.replace(b"What", b"Wh\xe9t"),
        RECORD.replace(b"What", b"\\ud83d"),
        RECORD[:-1] + b', "label": true}',
        with_metadata(b'{"a": NaN}'),
    ],
    ids=["utf-8", "surrogate", "duplicate", "nan"],
)
def test_what_is_unsound_is_read_for_the_other_rules_but_is_no_record(raw: bytes) -> None:
    unsound = row(raw)
    assert [message.role for message in unsound.messages] == ["user", "assistant"]
    assert (unsound.schema_errors, unsound.record) == ((), None)


def test_a_byte_order_mark_does_not_spoil_the_record() -> None:
    assert row(BYTE_ORDER_MARK + RECORD).record is not None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1,', "column 9"),
        (b'{\n "a": 1\n "b"}', "line 9, column 2"),
        (b'{"a": "\xff"}', "byte 8 of the line (FF) is not UTF-8: invalid start byte"),
        (BYTE_ORDER_MARK + b'{"a": "\xff"}', "byte 11 of the line (FF) is not UTF-8: invalid start byte"),
        (b'{"a": {}, "a": 1}', "the key 'a' is written twice"),
        (b"[1]", "the record is a list, must be an object"),
        (b"[" * 101, "unexpected end of data at column 102"),
        (b"[" * 700, "nested more than 100 levels deep"),
        (b"[" * 2000, "nested more than 100 levels deep"),
        (b'{"a": "[' + b"[" * 2000, "unexpected end of data at column 2009"),
        (b'[{"a\\"": ' * 600 + b"1", "nested more than 100 levels deep"),
        (b"[" * 1500 + b"]" * 1500, "nested more than 100 levels deep"),
    ],
)
def test_facts_say_where_and_what(raw: bytes, message: str) -> None:
    assert row(raw).facts[-1].message.endswith(message)


def test_a_broken_array_is_said_in_the_words_of_its_line() -> None:
    (broken,) = rows(b"", problem="']' is missing")
    assert broken.facts == (SyntaxFact(SyntaxProblem.INVALID_JSON, "']' is missing"),)
    assert (broken.value, broken.record) == (None, None)


@given(raw=st.binary() | st.text('{}[]",:\\ 1.eE-+truefalsnN"udI').map(str.encode))
@settings(max_examples=150, deadline=None)
def test_reading_never_raises_and_follows_orjson(raw: bytes) -> None:
    try:
        expected = orjson.loads(raw)
    except orjson.JSONDecodeError:
        expected = None
    for read in rows(raw):
        assert read.value is None or isinstance(read.value, dict)
        if isinstance(expected, dict):
            assert read.value is not None
        elif expected is not None:
            assert [fact.problem for fact in read.facts] == [SyntaxProblem.NOT_AN_OBJECT]
        else:
            assert read.facts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
records = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            *(
                "messages",
                "label",
                "images",
                "id",
                "tools",
                "prompt",
                "completion",
                "conversations",
                "kto_tag",
                "image",
            ),
            *("instruction", "input", "output", "history", "system", "chosen", "rejected"),
        ),
        json_values,
    ),
)
layouts = st.sampled_from(
    [make_layout(name) for name in ("auto", "messages", "prompt-completion", "sharegpt", "alpaca", "paired")]
)


@given(record=records, layout=layouts)
@settings(max_examples=150, deadline=None)
def test_any_object_can_be_read_in_any_format(record: dict[str, Any], layout: Layout) -> None:
    for read in rows(record, layout):
        assert read.record is None or not any(error.type != "extra_forbidden" for error in read.schema_errors)
        for error in read.schema_errors:
            read.user_pointer(error.pointer)
        for message in read.messages:
            assert message.num_images >= 0


@given(value=json_values, separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,", "\n :")]))
@settings(max_examples=100, deadline=None)
def test_a_value_without_repeated_keys_is_counted_right(value: Any, separators: tuple[str, str]) -> None:
    pairs = 0

    def count(items: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs += len(items)

    raw = json.dumps(value, separators=separators, ensure_ascii=False).encode(errors="replace")
    json.loads(raw, object_pairs_hook=count)
    assert count_keys(value) == pairs


@given(
    names=st.lists(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\""', '"a":', '":', '" :']), min_size=1, max_size=5),
    values=st.lists(st.sampled_from(["1", '":"', '": "', '"\\":"', '{"a":1}', "[]"]), min_size=5, max_size=5),
    colon=st.sampled_from([":", " :", "  :", "\t:", "\n :"]),
)
def test_a_line_called_plain_repeats_no_key(names: list[str], values: list[str], colon: str) -> None:
    raw = ("{" + ",".join(f"{n}{colon}{v}" for n, v in zip(names, values, strict=False)) + "}").encode()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return
    repeats = []
    json.loads(raw, object_pairs_hook=lambda pairs: repeats.append(len(dict(pairs)) < len(pairs)) or dict(pairs))
    if is_plain(raw, value):
        assert not any(repeats)


def test_plain_lines_take_the_fast_way() -> None:
    assert not may_repeat_keys(b'{"a":1,"b":{"c":": x"}}'.replace(b'": x"', b'"x :"'), 3)
    assert is_plain(RECORD, json.loads(RECORD))


def test_reading_needs_no_more_stack_than_the_deepest_record(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = MAX_DEPTH - 1
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(400)
        deepest = with_metadata(b'{"a":' * depth + b"1" + b"}" * depth)
        assert facts(deepest) == []
        assert row(deepest).record is not None
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": None}, [("missing", "/label")]),
        ({"label": "true"}, [("bool_type", "/label")]),
        ({"label": 1}, [("bool_type", "/label")]),
        ({"messages": None}, [("missing", "/messages")]),
        ({"messages": []}, [("too_short", "/messages")]),
        ({"messages": {}}, [("tuple_type", "/messages")]),
        ({"images": "a.png"}, [("tuple_type", "/images")]),
        ({"images": ["a.png", 5, []]}, [("string_type", "/images/1"), ("string_type", "/images/2")]),
        ({"id": 1.5}, [("string_type", "/id")]),
        ({"a/b": 1}, [("extra_forbidden", "/a~1b")]),
        ({"tools": [1]}, [("dict_type", "/tools/0")]),
    ],
)
def test_schema_errors_are_all_told_with_their_pointers(changes: dict[str, Any], expected: list[Any]) -> None:
    assert errors(make_record(**changes)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (5, [("string_type", "")]),
        ({}, [("string_type", "")]),
        ([], []),
        (["a"], [("model_type", "/0")]),
        ([{"type": "text"}], [("missing", "/0/text")]),
        ([{"type": "text", "text": 5}], [("string_type", "/0/text")]),
        ([{"type": "image", "image": "a.png"}], [("extra_forbidden", "/0/image")]),
        (
            [{"type": "image_url", "value": "a.png"}, {"text": "a"}],
            [("literal_error", "/0/type"), ("missing", "/1/type")],
        ),
    ],
)
def test_of_a_content_only_the_type_that_was_meant_is_judged(content: Any, expected: list[Any]) -> None:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    assert errors(make_record(messages=messages)) == [(kind, "/messages/0/content" + p) for kind, p in expected]


def test_malformed_messages_are_not_taken_for_too_few() -> None:
    assert errors(make_record(messages=[5, {"role": "gpt"}])) == [
        ("model_type", "/messages/0"),
        ("literal_error", "/messages/1/role"),
        ("missing", "/messages/1/content"),
    ]


def test_unknown_fields_alone_do_not_cost_the_record() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "z": 1}], "name": "x"},
        make_record()["messages"][1],
    ]
    read = row(make_record(messages=messages, score=0.5))
    assert [error.type for error in read.schema_errors] == ["extra_forbidden"] * 3
    assert read.record is not None
    assert read.record.messages[0].content[0].text == "a"  # type: ignore[union-attr]


def test_schema_errors_carry_the_value_as_it_was() -> None:
    read = row(make_record(label="yes"))
    assert read.schema_errors == (SchemaError("bool_type", "/label", "Input should be a valid boolean", "yes"),)


def test_views_hand_out_what_is_well_formed() -> None:
    messages: list[Any] = [
        {"role": "user", "content": "<image>one<image>"},
        "no message",
        {"role": 5, "content": [{"type": "image"}, {"type": "text", "text": "two"}]},
        {"content": [{"type": "text"}]},
    ]
    read = row(make_record(messages=messages, images=["a.png", 5, "b.png"], label=1, id=True))
    assert read.messages == (
        MessageView(0, "user", "<image>one<image>", 2),
        MessageView(2, None, "<image>two", 1),
        MessageView(3, None, None, 0),
    )
    assert read.image_paths == ((0, "a.png"), (2, "b.png"))
    assert (read.num_images, read.label, read.record_id) == (3, None, None)


def test_the_hash_is_of_the_raw_bytes() -> None:
    assert row(b"{}").row_hash == row(b"{}").row_hash
    assert row(b"{ }").row_hash != row(b"{}").row_hash
    assert len(row(b"").row_hash) == 16

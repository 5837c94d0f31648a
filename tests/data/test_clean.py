"""The law of the fast path: what the gate lets pass, the close check finds nothing about and reads the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import CAN_COMPILE, NO_COMPILER, make_image, make_record
from hypothesis import assume, given
from hypothesis import strategies as st
from test_rules import CASES, FIXTURES, run_case

from kto_data import plain
from kto_data.check import CheckSettings, LineChecker
from kto_data.chunk import Block, Line
from kto_data.clean import KNOWN_RULES, Gate
from kto_data.formats import Format, Layout
from kto_data.image import ImageCheck
from kto_data.marks import line_ends
from kto_data.noting import describe
from kto_data.plain import Sifted
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage

EVERY_RULE = CheckSettings(
    codes=frozenset(
        rule.code
        for rule in ALL_RULES
        if rule.default or rule.stage in (Stage.IMAGE, Stage.ROW_IMAGES) or rule.code in KNOWN_RULES
    )
)
"""Every rule that leaves the gate in use."""
_CHECKER = LineChecker(Layout(), EVERY_RULE)
_NO_LOOK = LineChecker(Layout(), replace(EVERY_RULE, images=ImageCheck.OFF))


@pytest.fixture(autouse=True, scope="module", params=["with compiled code", "without"])
def _code(request: pytest.FixtureRequest) -> Iterator[None]:
    """All that is promised here holds whether `scan.c` was compiled or not."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without":
            patch.setattr(plain, "scan", None)
        elif plain.scan is None and not CAN_COMPILE:
            pytest.skip(NO_COMPILER)
        yield


def _line(raw: bytes, path: str = "data.jsonl") -> Line:
    return Line(path=path, number=1, byte_offset=0, raw=raw)


def _hold_law(raw: bytes, checker: LineChecker = _CHECKER, path: str = "data.jsonl") -> bool:
    """Whether the gate let the line pass; fails where it should not have."""
    sample = Gate(checker).clean(raw, path)
    if sample is None:
        return False
    checked = checker.check(_line(raw, path))
    assert checked.findings == ()
    assert [describe(item.record) for item in checked.samples] == [sample]
    return True


@pytest.mark.parametrize(("code", "name"), [case for case in CASES if "model" not in FIXTURES[case[0]][case[1]]])
def test_fast_path_changes_no_finding(code: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fast").mkdir()
    (tmp_path / "slow").mkdir()
    fast = run_case(FIXTURES[code][name], code, tmp_path / "fast")
    monkeypatch.setattr(Gate, "sift", lambda gate, block: Sifted(doubtful=list(range(len(block)))))
    slow = run_case(FIXTURES[code][name], code, tmp_path / "slow")
    assert [(f.code, f.location.line, f.location.pointer) for f in fast] == [
        (f.code, f.location.line, f.location.pointer) for f in slow
    ]


_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "\u200b",
            "<image>",
            "a<image>b",
            "<|im_end|>",
            "</s>",
            "<s>a</s>",
            "[INST]",
            '"',
            '"": "',
            "\\u0022",
            "é",
        ]
    ),
)
_roles = st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool", "human", ""])
_messages = st.lists(st.fixed_dictionaries({"role": _roles, "content": _texts}), max_size=4)
_asked = st.tuples(_texts, _texts).map(
    lambda both: [{"role": "user", "content": both[0]}, {"role": "assistant", "content": both[1]}]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=4,
)
_records = st.fixed_dictionaries(
    {"messages": st.one_of(_asked, _asked, _messages, _json), "label": st.booleans() | _json},
    optional={
        "images": st.one_of(st.just([]), st.lists(_texts, max_size=2), _json),
        "id": st.one_of(st.integers(), _texts, _json),
        "source": _texts | _json,
        "metadata": _json,
    },
)


def _dumps_spaced(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _dumps_escaped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_TWICE = orjson.dumps(make_record()).replace(b'"label"', b'"label":true,"label"')


@given(_records, st.sampled_from([_dumps_spaced, _dumps_escaped]))
def test_gate_passes_nothing_that_is_found_wanting(record: Any, dumps: Callable[[Any], bytes]) -> None:
    _hold_law(dumps(record))


@given(_asked, st.sampled_from(["label", "messages", "role", "content", "x"]), _json, st.booleans())
def test_gate_passes_no_key_that_is_written_twice(messages: Any, key: str, value: Any, inside: bool) -> None:
    repeated = f"{json.dumps(key)}: {json.dumps(value)}, "
    inner = json.dumps(messages)
    if inside:
        inner = inner.replace('{"role"', "{" + repeated + '"role"', 1)
        repeated = ""
    _hold_law(f'{{{repeated}"messages": {inner}, "label": true}}'.encode(errors="surrogatepass"))


@given(st.binary(max_size=40))
def test_gate_survives_any_bytes(raw: bytes) -> None:
    _hold_law(raw)


@given(
    st.lists(
        st.one_of(
            st.builds(lambda record, dumps: dumps(record), _records, st.sampled_from([_dumps_spaced, _dumps_escaped])),
            st.sampled_from(
                [b"", b" ", b"{}", b"{", b"}{", orjson.dumps(make_record()), _TWICE, b'{"messages": [{', b"}]}"]
            ),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_lines_are_judged_together_as_they_are_one_by_one(lines: list[bytes], ended: bool) -> None:
    data = b"\n".join(lines) + b"\n" * ended
    assume(data)  # no block is empty
    gate = Gate(_CHECKER)
    ends = tuple(line_ends(data))
    block = Block(path="data.jsonl", first_line=1, data=data, ends=ends)
    whole = data.removesuffix(b"\n").split(b"\n")
    assert [block.line(index).raw for index in range(len(block))] == [line.removesuffix(b"\r") for line in whole]
    sifted = gate.sift(block)
    alone = [gate.clean(line, "data.jsonl") for line in whole]
    assert sifted.doubtful == [index for index, sample in enumerate(alone) if sample is None]
    for place, (digest, length, shape) in enumerate(sample for sample in alone if sample is not None):
        assert (sifted.prompts[place], sifted.completions[place]) == digest
        assert (sifted.lengths[place], sifted.shapes[place]) == (length, shape)


def test_a_record_on_two_lines_is_not_made_up_for_by_two_on_one() -> None:
    good = orjson.dumps(make_record())
    torn = good.replace(b',"label"', b',\n"label"')
    for data in (b"\n".join([torn, good + good, good]), b"\n".join([good + good, torn, good])):
        block = Block(path="data.jsonl", first_line=1, data=data, ends=tuple(line_ends(data)))
        assert Gate(_CHECKER).sift(block).doubtful == [0, 1, 2]


_SPELLINGS = [_dumps_spaced, _dumps_escaped, orjson.dumps]


_images = st.lists(st.sampled_from(["a", "content", "images", '"', "é", "label"]), max_size=2)
_with_images = st.fixed_dictionaries({"messages": _asked, "label": st.just(True)}, optional={"images": _images})


@given(_with_images, _with_images, st.sampled_from(_SPELLINGS), st.sampled_from(_SPELLINGS), st.integers(0, 200), _json)
def test_what_the_gate_saw_before_changes_no_judgement(
    seen: Any, record: Any, dumps: Callable[[Any], bytes], other: Callable[[Any], bytes], at: int, value: Any
) -> None:
    gate = Gate(_NO_LOOK)
    for one in (seen, record):  # the images are not looked at, but counted
        one["messages"][0]["content"] += "<image>" * len(one.get("images", ()))
    gate.clean(dumps(seen), "data.jsonl")
    for spell in (dumps, other):
        raw = spell(record)
        inserted = b'"content":' + json.dumps(value).encode() + b","
        for line in (raw, raw[:at] + inserted + raw[at:], raw[:at] + b" " + raw[at:], raw[:at] + raw[at + 1 :]):
            assert gate.clean(line, "data.jsonl") == Gate(_NO_LOOK).clean(line, "data.jsonl")


def test_a_key_that_stands_where_spaces_stood_is_seen() -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 8]
    spaced = json.dumps({"messages": turns, "label": True}).encode()
    twice = json.dumps({"messages": turns, "label": True}, separators=(",", ":")).encode()
    twice = twice.replace(b'"content":"x"}', b'"content":"y","content":"x"}', 1)
    twice = twice.replace(b'{"messages":[', b'{"messages": [' + b" " * (len(spaced) - len(twice) - 1), 1)
    assert len(twice) == len(spaced)
    gate = Gate(_CHECKER)
    assert gate.clean(spaced, "data.jsonl") is not None
    assert gate.clean(spaced, "data.jsonl") is not None
    assert gate.clean(twice, "data.jsonl") is None


def test_a_line_with_too_many_commas_is_looked_at_whatever_its_frame() -> None:
    gate = Gate(_CHECKER)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    assert gate.clean(orjson.dumps({"messages": turns, "label": True}), "data.jsonl") is not None
    turns[0]["content"] += "," * 200_001
    assert gate.clean(orjson.dumps({"messages": turns, "label": True}), "data.jsonl") is None


_HIDDEN = (
    '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "Yes."}],'
    ' "label": true, "label": true}'
)


@pytest.mark.parametrize("text", ["Hi", r"\u0022\u0022", r"\u0022\u0022\u0022\u0022", r"\"\u0022\u0022", "0022"])
def test_gate_is_not_fooled_by_quotation_marks_in_disguise(text: str) -> None:
    assert Gate(_CHECKER).clean((_HIDDEN % text).encode(), "data.jsonl") is None


_CONTENT_FIRST = [{"content": 'a "b" é', "role": "user"}, {"content": "c", "role": "assistant"}]


@pytest.mark.parametrize(
    "raw",
    [
        orjson.dumps(make_record()),
        json.dumps(make_record()).encode(),
        json.dumps(make_record(id=7, source="web", images=[])).encode(),
        json.dumps({"label": False, "messages": make_record()["messages"]}, indent=2).encode(),
        json.dumps(make_record(messages=_CONTENT_FIRST)).encode(),
    ],
)
def test_gate_passes_what_is_plainly_clean(raw: bytes) -> None:
    assert _hold_law(raw)


def test_gate_passes_clean_images_and_remembers_them(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.png")
    messages = [{"role": "user", "content": "<image>Look."}, {"role": "assistant", "content": "A square."}]
    raw = orjson.dumps(make_record(messages=messages, images=["a.png"]))
    checker = LineChecker(Layout(), EVERY_RULE)
    path = str(tmp_path / "data.jsonl")
    assert _hold_law(raw, checker, path)
    image.unlink()
    assert Gate(checker).clean(raw, path) is not None
    assert Gate(LineChecker(Layout(), EVERY_RULE)).clean(raw, path) is None


def test_gate_leaves_what_the_layout_renames_to_the_close_check() -> None:
    for layout in (Layout(format=Format.SHAREGPT), Layout(columns={"messages": "chat"}), Layout(mapped_only=True)):
        assert Gate(LineChecker(layout, EVERY_RULE)).clean(orjson.dumps(make_record()), "data.jsonl") is None


def test_gate_knows_all_rules_about_rows_that_run_by_default() -> None:
    assert {rule.code for rule in ALL_RULES if rule.stage is Stage.ROW and rule.default} <= KNOWN_RULES
    assert {rule.code for rule in ALL_RULES if rule.stage is Stage.ROW} >= KNOWN_RULES


@pytest.mark.parametrize("code", sorted({rule.code for rule in ALL_RULES if rule.stage is Stage.ROW} - KNOWN_RULES))
def test_gate_stands_aside_where_a_rule_about_rows_is_selected_that_it_does_not_know(code: str) -> None:
    settings = CheckSettings(codes=EVERY_RULE.codes | {code})
    assert Gate(LineChecker(Layout(), settings)).clean(orjson.dumps(make_record()), "data.jsonl") is None


def test_gate_asks_the_rules_about_a_path_of_each_path(tmp_path: Path) -> None:
    checker = LineChecker(Layout(), EVERY_RULE)
    messages = [{"role": "user", "content": "<image>Look."}, {"role": "assistant", "content": "A square."}]
    for name, is_clean in (("a.png", True), ("b.png", True), ("c:d.png", False), ("e.png", True)):
        make_image(tmp_path / name)
        raw = orjson.dumps(make_record(messages=messages, images=[name]))
        assert _hold_law(raw, checker, str(tmp_path / "data.jsonl")) is is_clean


@pytest.mark.parametrize(("row_max_pixels", "is_clean"), [(None, True), (2 * 64 * 48, True), (2 * 64 * 48 - 1, False)])
def test_gate_adds_up_the_images_of_a_record(row_max_pixels: int | None, is_clean: bool, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    messages = [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "Yes."}]
    raw = orjson.dumps(make_record(messages=messages, images=["a.png", "a.png"]))
    checker = LineChecker(Layout(), replace(EVERY_RULE, row_max_pixels=row_max_pixels))
    assert _hold_law(raw, checker, str(tmp_path / "data.jsonl")) is is_clean


def test_many_lines_are_checked_in_their_order_clean_ones_among_others() -> None:
    rows = [make_record(id=number, label="yes" if number % 5 == 3 else number % 2 == 0) for number in range(70)]
    lines = [Line("data.jsonl", number, 0, json.dumps(row).encode()) for number, row in enumerate(rows, start=1)]
    found = list(Gate(_CHECKER).check(lines))
    assert found == [_CHECKER.check(line) for line in lines]
    assert [checked.line.number % 5 for checked in found if checked.findings] == [4] * 14

"""`ktodata convert`: what a row says stays, however it is spelt."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from test_rules import CASES, FIXTURES, prepare_case

from kto_data.check import CheckSettings, LineChecker
from kto_data.chunk import Line
from kto_data.fields import RECORD_FIELDS
from kto_data.formats import Layout
from kto_data.image import ImageCheck
from kto_data.inputs import Input, open_inputs
from kto_data.rewrite.loop import Rewriting, rewrite
from kto_data.rules import ALL_RULES

ALL_CODES = frozenset(rule.code for rule in ALL_RULES if rule.requires is None)
OF_THE_SPELLING = {"KTO103", "KTO105", "KTO111", "KTO113", "KTO114", "KTO115", "KTO116"}
"""Findings about lines, formats and fields that canonical lines keep under `metadata`: they have none."""


def converted(inputs: tuple[Input, ...], **options: Any) -> tuple[list[bytes], Rewriting]:
    output = io.BytesIO()
    done = rewrite(inputs, output, **options)
    return output.getvalue().splitlines(keepends=True), done


def codes_of(layout: Layout, raw: bytes, path: Path) -> tuple[Counter[str], list[Any]]:
    """The codes that validation finds in a row, and the records that it reads."""
    checker = LineChecker(layout, CheckSettings(codes=ALL_CODES, images=ImageCheck.OFF))
    checked = checker.check(Line(str(path), 1, 0, raw))
    codes = Counter({finding.code: 1 for finding in checked.findings if finding.code not in OF_THE_SPELLING})
    return codes, [item.record for item in checked.samples]


def assert_same(entry: Input, raw: bytes, lines: list[bytes]) -> None:
    path = Path(entry.source.path)
    before, records = codes_of(entry.layout, raw, path)
    after: Counter[str] = Counter()
    again: list[Any] = []
    for line in lines:
        codes, read = codes_of(Layout(), line.removesuffix(b"\n"), path)
        after |= codes
        again += read
    assert after == before
    assert [shown(record) for record in again] == [shown(record) for record in records]


def shown(record: Any) -> Any:
    return record.model_dump(exclude={"metadata"})


@pytest.mark.parametrize(
    ("code", "name"), [case for case in CASES if not {"model", "cache"} & FIXTURES[case[0]][case[1]].keys()]
)
def test_validation_says_of_a_converted_row_what_it_says_of_the_row(code: str, name: str, tmp_path: Path) -> None:
    case = {**FIXTURES[code][name], "images": {}}
    inputs, _, _ = prepare_case(case, code, tmp_path)
    for entry in inputs:
        for chunk in entry.source.chunks():
            for line in chunk.lines():
                if line.raw.strip():
                    assert_row_laws(line.raw, entry.layout, tmp_path)


def assert_row_laws(raw: bytes, layout: Layout, folder: Path) -> None:
    path = folder / "one.jsonl"
    path.write_bytes(raw + b"\n")
    (opened,) = open_inputs([str(path)])
    one = Input(opened.source, layout)
    lines, done = converted((one,), keep_errors=True)
    assert done.num_rows == 1
    rejects = io.BytesIO()
    _, strict = converted((one,), rejects=rejects)
    assert strict.num_written + strict.num_rejected == 1
    assert strict.num_rejected == len(rejects.getvalue().splitlines()) == done.num_with_errors
    if not done.num_written:
        assert done.num_with_errors
        return
    assert_same(one, raw, lines)
    assert_kept(json.loads(raw.removeprefix(b"\xef\xbb\xbf")), [json.loads(line) for line in lines], done)
    path.write_bytes(b"".join(lines))
    twice, again = converted(open_inputs([str(path)]), keep_errors=True)
    assert twice == lines
    assert not again.changes


def assert_kept(before: Any, after: Any, done: Rewriting) -> None:
    """Every word and number of the row is in its records, save what was named as left out or changed."""
    told = {detail for _, detail in done.changes}
    changed = {detail.split()[0] for detail in told if detail} | {"Human:", "Assistant:"}
    there = " ".join(map(str, leaves(after)))
    for leaf in leaves({name: value for name, value in before.items() if name not in told}):
        assert all(word in there or word in changed for word in str(leaf).split())


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, str) and value.startswith("[{"):
        return leaves(json.loads(value))  # `tools`, in the way of LLaMA-Factory
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else []


TURN = {"from": "human", "value": "<image>What is it?"}
KEPT = {"source": "web", "score": 0.5, "wide": 10**30}
FORMATS: dict[str, list[dict[str, Any]]] = {
    "messages": [make_record(id=7, **KEPT), make_record(extra={"a": [1]})],
    "prompt-completion": [
        {"prompt": "Why?", "completion": "So.", "label": False, "id": "x", **KEPT},
        {"prompt": [{"role": "user", "content": "Look"}], "completion": [{"role": "assistant", "content": "I do."}],
         "label": True, "image": "a.png"},
    ],
    "sharegpt": [
        {"conversations": [TURN, {"from": "gpt", "value": "A cat."}], "kto_tag": True, "images": ["a.png"],
         "system": "Be brief.", "tools": '[{"name": "look"}]', **KEPT},
    ],
    "alpaca": [
        {"instruction": "Sum up", "input": "this text", "output": "Done.", "kto_tag": "false",
         "history": [["Hello", "Hi"]], "system": "Be brief.", **KEPT},
        {"instruction": "Sum up", "output": "Done.", "kto_tag": False, "history": [["Hello", "Hi"]]},
    ],
    "paired": [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "id": 3, **KEPT},
        {"chosen": "\n\nHuman: Hi there\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi there\n\nAssistant: No"},
        {"conversations": [TURN], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"},
         "images": ["a.png"]},
        {"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
         "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}], "images": ["a.png"]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_the_laws_hold_of_every_format(format: str, tmp_path: Path) -> None:
    for record in FORMATS[format]:
        assert_row_laws(json.dumps(record).encode(), Layout(), tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_in_are_rows_out_and_a_pair_is_two(format: str, tmp_path: Path) -> None:
    good = [record for record in FORMATS[format] if record.get("kto_tag") != "false"]
    path = write_jsonl(tmp_path / "data.jsonl", [*good, b"", b"{", *good])
    rejects = io.BytesIO()
    lines, done = converted(open_inputs([str(path)]), rejects=rejects)
    each = 2 if format == "paired" else 1
    assert (done.num_rows, done.num_written, done.num_rejected) == (2 * len(good) + 1, 2 * len(good), 1)
    assert len(lines) == done.num_records == 2 * len(good) * each
    (entry,) = (json.loads(line) for line in rejects.getvalue().splitlines())
    assert (entry["line"], entry["rules"], entry["raw"]) == (len(good) + 2, ["KTO101"], "{")
    assert all(json.loads(line).keys() <= RECORD_FIELDS_AS_SET for line in lines)


RECORD_FIELDS_AS_SET = set(RECORD_FIELDS)


@given(st.lists(st.sampled_from([record for records in FORMATS.values() for record in records]), min_size=1))
def test_converting_twice_changes_nothing_more(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_jsonl(Path(name, "data.jsonl"), records)
        lines, _ = converted(open_inputs([str(path)]), keep_errors=True)
        path.write_bytes(b"".join(lines))
        again, done = converted(open_inputs([str(path)]), keep_errors=True)
        assert again == lines
        assert not done.changes


def test_a_row_that_is_canonical_keeps_its_bytes(tmp_path: Path) -> None:
    turns = b'[{"content": "caf\\u00e9", "role":"user"},{"role":"assistant","content":"1"}]'
    row = b'{ "label":true,  "messages": ' + turns + b"}"
    lines, done = converted(open_inputs([str(write_jsonl(tmp_path / "data.jsonl", [row]))]))
    assert lines == [row + b"\n"]
    assert not done.changes


@pytest.mark.parametrize("messages", [True, 5, 1e300, 2**64, "text", {}, [5], None])
def test_messages_that_are_no_list_are_written_as_they_are(messages: Any, tmp_path: Path) -> None:
    row = {"conversations": messages, "kto_tag": True}
    lines, done = converted(open_inputs([str(write_jsonl(tmp_path / "data.jsonl", [row]))]), keep_errors=True)
    assert done.num_with_errors == 1
    assert [json.loads(line) for line in lines] == [{"messages": messages, "label": True}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": make_record()["messages"], "label": True},  # without the completion
        {"output": "A", "rejected": "B", "images": ["a.png"]},  # alpaca, and then one side of a pair
    ],
)
def test_a_row_that_would_be_read_as_another_is_not_written(row: dict[str, Any], tmp_path: Path) -> None:
    lines, done = converted(open_inputs([str(write_jsonl(tmp_path / "data.jsonl", [row]))]), keep_errors=True)
    assert lines == []
    assert (done.num_rows, done.num_written, done.num_with_errors) == (1, 0, 1)

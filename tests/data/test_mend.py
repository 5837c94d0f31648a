"""`--fix`: pieces of a row replaced, rows mended in rounds, and what becomes of the files."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from test_rules import CASES, FIXTURES, as_lines, prepare_case

from kto_data.check import DEFAULT_CODES, CheckSettings
from kto_data.chunk import Line
from kto_data.errors import InputError, UsageError
from kto_data.finding import Finding
from kto_data.formats import Layout, Tags
from kto_data.image import ImageCheck
from kto_data.inputs import Input, open_inputs
from kto_data.mend.edits import EDITS, Subject, Wish
from kto_data.mend.lines import raw_lines, unified_diff
from kto_data.mend.outlet import RowCounts, count_rows, make_outlet, write
from kto_data.mend.rounds import BLANK_LINE, CRLF, DUPLICATE, FINAL_NEWLINE, LABEL_RUNS, Mending, MendSettings, mend
from kto_data.mend.splice import Span, Splice, apply, find
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Fix
from kto_data.triage import Triage
from kto_data.validate import validate

ALL_CODES = frozenset(rule.code for rule in ALL_RULES if rule.requires is None)
BY_HAND_CASES = {
    **dict.fromkeys(
        [("KTO216", f"fail_{name}") for name in ("colon", "device", "trailing_dot")], "no other name is known"
    ),
    ("KTO216", "fail_decomposed"): "the file has that name",
    ("KTO309", "fail_ambiguous"): "nothing would be left",
    ("KTO310", "fail_lost"): "what was there is gone",
}
"""Findings of rules that can be mended, in which nothing can."""
REVEALED = {"KTO112": {"KTO305"}}
"""What nobody could see before: a text without placeholders, once the images are a list."""


def mended(path: Path, folder: Path, *, codes: frozenset[str] = DEFAULT_CODES, **options: Any) -> Mending:
    check = CheckSettings(codes=codes)
    return mend(open_inputs([str(path)]), MendSettings(check=check, **options), folder)


def now(mending: Mending, index: int = 0) -> list[bytes]:
    return list(raw_lines(mending.files[index].now.source))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# Pieces of a text


@pytest.mark.parametrize(
    ("pointer", "piece"),
    [
        ("", b'{ "a" : [1.50, {"b/c": "x\\"]}"}], "d~": null , "a" : [0, true] }'),
        ("/a", b"[0, true]"),  # of a repeated key, the value that counts
        ("/a/1", b"true"),
        ("/d~0", b"null"),
        ("/a/2", None),
        ("/z", None),
        ("/a/0/x", None),
    ],
)
def test_a_piece_is_found_where_parsers_find_its_value(pointer: str, piece: bytes | None) -> None:
    raw = b'{ "a" : [1.50, {"b/c": "x\\"]}"}], "d~": null , "a" : [0, true] }'
    span = find(raw, pointer)
    assert (raw[span.start : span.stop] if span else None) == piece


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_every_value_is_found_at_its_pointer(value: Any, indent: int | None, is_ascii: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()

    def look(pointer: str, item: Any) -> None:
        span = find(raw, pointer)
        assert span is not None
        assert json.loads(raw[span.start : span.stop]) == item
        children = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, child in children:
            look(f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}", child)

    look("", value)


@given(st.binary(max_size=30), st.text(max_size=8))
def test_what_is_no_json_is_searched_without_harm(raw: bytes, pointer: str) -> None:
    find(raw, pointer)


def test_splices_replace_their_pieces_alone_and_never_overlap() -> None:
    splices = [Splice(Span(4, 5), b"Y"), Splice(Span(0, 3), b""), Splice(Span(2, 4), b"no"), Splice(Span(4, 5), b"Y")]
    assert apply(b"abcdefg", splices) == b"dYfg"


# Edits


def edit(code: str, record: Any, pointer: str = "", layout: Layout | None = None, **more: Any) -> Any:
    raw = record if isinstance(record, bytes) else json.dumps(record).encode()
    subject = Subject(Line("data.jsonl", 1, 0, raw), layout or Layout(), **more)
    return apply(raw, EDITS[code](subject, Wish(code, pointer)))


def test_every_rule_that_says_it_can_be_mended_can_be() -> None:
    by_hand = {"KTO708"}  # of the configuration, not of the data
    mendable = {rule.code for rule in ALL_RULES if rule.fix in (Fix.SAFE, Fix.UNSAFE)} - by_hand
    assert mendable == EDITS.keys() | {BLANK_LINE, FINAL_NEWLINE, CRLF, DUPLICATE, LABEL_RUNS}


@pytest.mark.parametrize(
    ("label", "expected"),
    [('"true"', "true"), ('"False"', "false"), ("0", "false"), ("1", "true"), ('"yes"', '"yes"'), ("2", "2"),
     ("1.0", "1.0"), ("null", "null"), ("-1", "-1"), ('""', '""'), ('"off"', '"off"')],
)  # fmt: skip
def test_only_words_for_true_and_false_become_labels(label: str, expected: str) -> None:
    before, after = (f'{{"label":  {text}, "x": 1e400}}'.encode() for text in (label, expected))
    assert edit("KTO402", before, "/label") == after


@pytest.mark.parametrize(
    ("role", "expected"),
    [("human", "user"), ("GPT", "assistant"), ("User", "user"), ("developer", "system"), ("usr", "usr"), (7, 7)],
)
def test_aliases_become_roles_and_typos_stay(role: object, expected: object) -> None:
    after = json.loads(edit("KTO302", {"messages": [{"role": role}]}, "/messages/0/role"))
    assert after["messages"][0]["role"] == expected


def test_in_sharegpt_a_role_keeps_to_the_words_of_the_file() -> None:
    row = {"conversations": [{"from": "bot", "value": "Hi"}]}
    assert json.loads(edit("KTO302", row, "/conversations/0/from"))["conversations"][0]["from"] == "gpt"
    layout = Layout(tags=Tags(role_tag="who", assistant_tag="bot"))
    row = {"conversations": [{"who": "chatgpt", "value": "Hi"}]}
    assert json.loads(edit("KTO302", row, "/conversations/0/who", layout))["conversations"][0]["who"] == "bot"


@pytest.mark.parametrize(
    ("images", "expected"), [('"a.png"', '["a.png"]'), ('""', "[]"), ("null", "[]"), ('{"path": 1}', '{"path": 1}')]
)
def test_one_image_becomes_a_list_of_one(images: str, expected: str) -> None:
    assert edit("KTO112", f'{{"images": {images}}}'.encode(), "/images") == f'{{"images": {expected}}}'.encode()


@pytest.mark.parametrize(
    ("contents", "num_images", "expected"),
    [
        (["What?", "A."], 2, ["<image><image>What?", "A."]),
        (["See <image>\nand <image>\nboth", "A."], 1, ["See <image>\nand both", "A."]),
        (["<image>Q", "<image>A"], 1, ["<image>Q", "A"]),
        ([[{"type": "text", "text": "Q"}], "A."], 1, [[{"type": "image"}, {"type": "text", "text": "Q"}], "A."]),
        ([[{"type": "image"}, {"type": "text", "text": "Q"}], "A."], 0, [[{"type": "text", "text": "Q"}], "A."]),
    ],
)
def test_placeholders_come_first_and_go_last(contents: list[Any], num_images: int, expected: list[Any]) -> None:
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    row = {"messages": turns, "label": True, "images": ["a.png"] * num_images}
    after = json.loads(edit("KTO305", row, "/messages"))
    assert [message["content"] for message in after["messages"]] == expected


def test_placeholders_are_mended_in_the_words_of_other_formats() -> None:
    row = {"instruction": "Look", "output": "<image>It is red.", "kto_tag": True, "images": ["a.png", "b.png"]}
    assert json.loads(edit("KTO305", row, "/output"))["instruction"] == "<image>Look"


def test_a_text_that_holds_several_messages_is_not_mended() -> None:
    row = {"chosen": "\n\nHuman: <image> Hi\n\nAssistant: A", "rejected": "\n\nHuman: <image> Hi\n\nAssistant: B"}
    assert json.loads(edit("KTO305", row, "/chosen")) == row


def test_control_tokens_go_unless_nothing_is_left() -> None:
    row = {"messages": [{"content": "Stop <|im_<|im_end|>end|>here"}, {"content": "<|im_end|>"}]}
    assert json.loads(edit("KTO309", row, "/messages/0/content"))["messages"][0]["content"] == "Stop here"
    assert json.loads(edit("KTO309", row, "/messages/1/content")) == row


def test_parts_are_mended_each_by_itself() -> None:
    row = {"messages": [{"content": [{"type": "text", "text": "caf\u00c3\u00a9"}, {"type": "image"}]}]}
    after = json.loads(edit("KTO310", row, "/messages/0/content"))
    assert after["messages"][0]["content"][0] == {"type": "text", "text": "caf\u00e9"}


def test_a_mended_text_is_escaped_as_it_was() -> None:
    escaped, plain = rb'{"t": "\u00e9\u0007"}', '{"t": "é\\u0007"}'.encode()
    assert edit("KTO311", escaped, "/t") == rb'{"t": "\u00e9"}'
    assert edit("KTO311", plain, "/t") == '{"t": "é"}'.encode()


def test_half_a_surrogate_pair_is_replaced_in_keys_too() -> None:
    raw = rb'{"a\ud83d": "\\ud83d \ud83d\ude00 \ude00", "b": 1.0}'
    assert edit("KTO108", raw) == b'{"a\\ufffd": "\\\\ud83d \\ud83d\\ude00 \\ufffd", "b": 1.0}'


def test_a_path_is_not_mended_away_from_its_file(tmp_path: Path) -> None:
    make_image(tmp_path / "a\\b.png")
    row = {"images": ["a\\b.png", "c\\d.png"]}
    kept, lost = (edit("KTO216", row, f"/images/{index}", image_root=tmp_path) for index in range(2))
    assert json.loads(kept) == row
    assert json.loads(lost)["images"] == ["a\\b.png", "c/d.png"]


# Rounds


def found_by(inputs: tuple[Input, ...], check: CheckSettings, triage: Triage) -> list[Finding]:
    found: list[Finding] = []
    validate(inputs, check, triage=triage, listen=found.extend)
    return found


@pytest.mark.parametrize(("code", "name"), CASES)
def test_what_a_rule_finds_is_mended_and_nothing_else_changes(
    code: str, name: str, tmp_path: Path, work: Path, request: pytest.FixtureRequest
) -> None:
    case = FIXTURES[code][name]
    tiny_model: TinyModel | None = request.getfixturevalue("tiny_model") if {"model", "cache"} & case.keys() else None
    inputs, check, triage = prepare_case(case, code, tmp_path, tiny_model)
    settings = MendSettings(check=check, unsafe=True, reject=True, make_triage=partial(copy.deepcopy, triage))
    before = found_by(inputs, check, settings.make_triage())
    try:
        mending = mend(inputs, settings, work)
    except InputError as error:
        if "no row" not in str(error):
            raise
        return  # the one row of the case had to go
    after = found_by(tuple(file.now for file in mending.files), check, settings.make_triage())
    codes_before, codes_after = ({f.code for f in findings} for findings in (before, after))
    rule = next(rule for rule in ALL_RULES if rule.code == code)
    if rule.fix is not Fix.NONE and rule.code != "KTO708" and (code, name) not in BY_HAND_CASES:
        assert code not in codes_after
    if (code, name) in BY_HAND_CASES:
        assert code in codes_after
    about_all = {"KTO403", "KTO404", "KTO407"}  # that rows have gone may show in these
    assert codes_after <= codes_before | REVEALED.get(code, set()) | about_all
    for file in mending.files:
        touched = {f.location.line for f in before if f.location.path == file.original.source.path}
        lines = list(raw_lines(file.original.source))
        if not codes_before & {CRLF, FINAL_NEWLINE}:
            origins = file.lines if file.is_changed else range(1, len(lines) + 1)
            for origin, line in zip(origins, raw_lines(file.now.source), strict=True):
                assert line == lines[origin - 1] or origin in touched
    count_rows(mending)  # asserts that no row is lost
    shutil.rmtree(work)
    work.mkdir()


LINES = sorted({line for cases in FIXTURES.values() for case in cases.values() for line in as_lines(case["lines"])})


@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_mending_twice_changes_nothing_more(lines: list[bytes], ending: bytes, unsafe: bool, reject: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, again, rejects = Path(name, "data.jsonl"), Path(name, "again.jsonl"), Path(name, "rejects.jsonl")
        path.write_bytes(ending.join(lines) + b"\n")
        check = CheckSettings(codes=ALL_CODES, images=ImageCheck.STAT)
        settings = MendSettings(check=check, unsafe=unsafe, reject=reject)
        try:
            first = mend(open_inputs([str(path)]), settings, Path(tempfile.mkdtemp(dir=name)))
        except InputError:
            return  # no row at all, or none that could be kept
        outlet = make_outlet(open_inputs([str(path)]), out=again, in_place=False, rejects=rejects if reject else None)
        counts = write(first, outlet)
        assert counts.kept + counts.rejected == counts.read
        second = mend(open_inputs([str(again)]), settings, Path(tempfile.mkdtemp(dir=name)))
        assert not second.files[0].is_changed, (second.mended, again.read_bytes())
        patched = apply_diff(path.read_bytes(), list(unified_diff(*versions(first), first.files[0].lines)))
        assert not first.files[0].is_changed or patched == again.read_bytes()


def versions(mending: Mending) -> tuple[Any, Any]:
    return mending.files[0].original.source, mending.files[0].now.source


def apply_diff(before: bytes, diff: list[bytes]) -> bytes:
    """What `patch` makes of it."""
    old, new, at = before.splitlines(keepends=True) if b"\r" not in before else split(before), [], 0
    for line in b"".join(diff).split(b"\n")[2:-1]:
        mark, text = line[:1], line[1:] + b"\n"
        if mark == b"@":
            start, _, count = line.split(b" ")[1][1:].partition(b",")
            first = int(start) - (count != b"0")
            new += old[at:first]
            at = first
        elif mark == b"-":
            assert old[at] in (text, text[:-1])
            at += 1
        elif mark == b"+":
            new.append(text)
        else:
            new[-1:] = [new[-1].removesuffix(b"\n")] if new and at >= len(old) and cut_end(diff) else new[-1:]
    return b"".join(new + old[at:])


def cut_end(diff: list[bytes]) -> bool:
    return diff[-1].startswith(b"+") and b"\\ No newline" in diff[-1]


def split(text: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in text.split(b"\n")]
    return lines[:-1] if text.endswith(b"\n") else [*lines[:-1], lines[-1][:-1]]


def test_what_a_mended_row_brings_to_light_is_mended_too(tmp_path: Path, work: Path) -> None:
    good = make_record()
    rows = [good, make_record(label="true"), make_record(messages=good["messages"][::-1][:1])]
    mending = mended(write_jsonl(tmp_path / "data.jsonl", rows), work, reject=True)
    assert [json.loads(line) for line in now(mending)] == [good, rows[2]]
    assert mending.files[0].rejected == {2: ("KTO601",)}
    assert mending.mended == Counter({"KTO402": 1, "KTO601": 1})


def test_without_a_rejects_file_no_row_goes(tmp_path: Path, work: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [make_record(), b"{", make_record(), b""])
    mending = mended(path, work)
    assert now(mending) == path.read_bytes().splitlines(keepends=True)[:3]
    assert mending.left == Counter({Fix.REJECT: 2})
    assert count_rows(mending) == RowCounts(read=3, kept=3, rejected=0, blank=1)


def test_a_pair_goes_as_a_duplicate_only_when_both_its_sides_are_there(tmp_path: Path, work: Path) -> None:
    pair = {"prompt": "Q", "chosen": "Yes.", "rejected": "No."}
    rows = [pair, {**pair, "rejected": "Maybe."}, {**pair}]
    mending = mended(write_jsonl(tmp_path / "data.jsonl", rows), work, reject=True)
    assert mending.files[0].rejected == {3: ("KTO601",)}


def test_unsafe_mending_is_asked_for(tmp_path: Path, work: Path) -> None:
    turns = [{"role": "user", "content": "Hi<|im_end|>"}, {"role": "assistant", "content": "Hello."}]
    path = write_jsonl(tmp_path / "data.jsonl", [make_record(messages=turns)])
    (work / "a").mkdir()
    (work / "b").mkdir()
    safe = mended(path, work / "a")
    assert not safe.files[0].is_changed
    assert safe.left == Counter({Fix.UNSAFE: 1})
    assert b"<|im_end|>" not in now(mended(path, work / "b", unsafe=True))[0]


def test_a_finding_that_is_suppressed_or_less_than_an_error_is_let_be(tmp_path: Path, work: Path) -> None:
    from kto_data.finding import Severity
    from kto_data.triage import FileIgnore

    path = write_jsonl(tmp_path / "data.jsonl", [make_record(label=1), make_record(images=["no.png"])])

    def triage() -> Triage:
        ignores = [FileIgnore("*.jsonl", frozenset({"KTO402"}))]
        return Triage(ignores=ignores, severities={"KTO201": Severity.WARNING})

    assert not mended(path, work, reject=True, make_triage=triage).files[0].is_changed


def test_rows_sorted_by_label_are_shuffled_the_same_way_from_any_order(tmp_path: Path, work: Path) -> None:
    rows = [make_record(label=index < 60, id=index, messages=[
        {"role": "user", "content": f"Q{index}"}, {"role": "assistant", "content": f"A{index}"}
    ]) for index in range(120)]  # fmt: skip
    results = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        (work / name).mkdir()
        path = write_jsonl(tmp_path / f"{name}.jsonl", order)
        results.append(now(mended(path, work / name, unsafe=True)))
    assert results[0] == results[1]
    assert sorted(results[0]) == sorted(path.read_bytes().splitlines(keepends=True))
    labels = [json.loads(line)["label"] for line in results[0]]
    assert labels != sorted(labels, reverse=True)


def test_line_ends_are_mended_where_they_are_found(tmp_path: Path, work: Path) -> None:
    path = tmp_path / "data.jsonl"
    one, two = (json.dumps(make_record(id=index, source=str(index))).encode() for index in range(2))
    path.write_bytes(one + b"\r\n" + two)
    (work / "a").mkdir()
    (work / "b").mkdir()
    assert not mended(path, work / "a").files[0].is_changed  # nobody selected the rules
    assert now(mended(path, work / "b", codes=DEFAULT_CODES | {CRLF, FINAL_NEWLINE})) == [one + b"\n", two + b"\n"]


def test_a_file_that_would_be_left_empty_stops_the_run(tmp_path: Path, work: Path) -> None:
    with pytest.raises(InputError, match="no row"):
        mended(write_jsonl(tmp_path / "data.jsonl", [b"{"]), work, reject=True)


def test_an_array_is_to_be_converted_first(tmp_path: Path, work: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([make_record()]), encoding="utf-8")
    with pytest.raises(UsageError, match="no file of JSON lines"):
        mended(path, work)


# Files


def test_rejected_rows_are_kept_as_they_stood_in_the_input(tmp_path: Path, work: Path) -> None:
    odd = b'\xef\xbb\xbf{"messages": "\xe9"}'
    bad = json.dumps(make_record(label="true", images="no.png")).encode()
    path = write_jsonl(tmp_path / "data.jsonl", [odd, b"", bad, make_record()])
    mending = mended(path, work, reject=True)
    outlet = make_outlet(
        open_inputs([str(path)]), out=tmp_path / "out.jsonl.gz", in_place=False, rejects=tmp_path / "rejects.jsonl"
    )
    assert write(mending, outlet) == RowCounts(read=3, kept=1, rejected=2, blank=1)
    first, second = (json.loads(line) for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines())
    assert (first["line"], first["rules"], "raw_base64" in first) == (1, ["KTO102", "KTO109"], True)
    assert (second["line"], second["rules"], second["raw"]) == (3, ["KTO201"], bad.decode())
    assert second.keys() == {"file", "line", "row_hash", "rules", "raw"}
    assert list(raw_lines(open_inputs([str(tmp_path / "out.jsonl.gz")])[0].source)) == now(mending)

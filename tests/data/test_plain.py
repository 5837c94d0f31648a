"""The law of the compiled code: what it calls plain, others call clean, with the same columns. It stays in bounds."""

from __future__ import annotations

import ctypes
import json
import mmap
import random
import subprocess
import sys
import sysconfig
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import CAN_COMPILE, COMPILER, NO_COMPILER, make_record
from hypothesis import given
from hypothesis import strategies as st
from test_clean import EVERY_RULE

from kto_data import plain
from kto_data.check import LineChecker
from kto_data.chunk import Block, Line
from kto_data.clean import Gate
from kto_data.fields import ROLES
from kto_data.formats import Format, Layout, Tags
from kto_data.image import ImageCheck
from kto_data.marks import line_ends
from kto_data.noting import describe
from kto_data.plain import Sifted, read_plain
from kto_data.rules.control_tokens import AMBIGUOUS, TOKEN_BEGINNINGS, find_control_tokens

ROOT = Path(__file__).parents[2]
_CHECKER = LineChecker(Layout(), EVERY_RULE)

pytestmark = pytest.mark.skipif(plain.scan is None and not CAN_COMPILE, reason=NO_COMPILER)


def _is_plain(raw: bytes) -> bool:
    return read_plain(raw, [len(raw)]).doubtful == []


@contextmanager
def _without_the_code() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "scan", None)
        yield


def _block_of(*lines: bytes) -> tuple[bytes, list[int]]:
    """Lines one after another, and where each of them ends."""
    data = b"\n".join(lines)
    return data, [*line_ends(data), len(data)]


def _columns_of_others(raw: bytes) -> Sifted:
    """What is said of a line without the compiled code."""
    with _without_the_code():
        assert read_plain(raw, [len(raw)]) == Sifted(doubtful=[0])
        return Gate(_CHECKER).sift(Block(path="data.jsonl", data=raw, ends=()))


def _hold_law(raw: bytes) -> bool:
    """Whether the line is plain; fails where it should not be, or something else is said of it."""
    found = read_plain(raw, [len(raw)])
    if found.doubtful:
        assert found == Sifted(doubtful=[0])
        return False
    assert found == _columns_of_others(raw)
    return True


def _spaced(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass")


def _escaped(record: Any) -> bytes:
    return json.dumps(record).encode()


_FIRST = {"messages": make_record()["messages"], "label": False}
_LAST = {"label": False, "messages": [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "é"}]}
_CONTENT_FIRST = [{"content": "Wer?", "role": "user"}, {"content": "Ich.", "role": "assistant"}]
_TURNS = [{"role": role, "content": str(turn)} for turn in range(15) for role in ("user", "assistant")]
_PAIR = _TURNS[:2]
_TWICE = [b'"id":1,"id":1,', b'"source":"a","source":"a",', b'"images":[],"images":[],']
_ESCAPES = [
    *(rb"\u00", rb"\u00e", rb"\u00eg", rb"\uD83D", rb"\uD83Dx", rb"\uD83D\u0041", rb"\uDC00", rb"\uD83D\uD83D"),
    *(rb"\ud83d\u", rb"\u001b", rb"\u003c|im_end|>", rb"<\uff5cUser\uff5c>", rb"<|im\u005fend|>", rb"\U00e9"),
    *(rb"\udc00\udc00", rb"\ud83d\ue000", rb"\ud83d_ude00", rb"\u00e/", rb"\u00e:", rb"\u00e ", rb"\u00e@", rb"\u00e`"),
]
_USED_TOOL = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "add(2, 2)"},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "4"},
]


def _asked(question: str, answer: str = "Yes.", **others: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return make_record(messages=turns, **others)


_PLAIN = [
    make_record(),
    _FIRST,
    _LAST,
    make_record(messages=_CONTENT_FIRST),
    make_record(messages=_USED_TOOL),
    make_record(messages=_USED_TOOL[:1] + _TURNS),
    make_record(id="a-1", source='web "x" é', images=[]),
    make_record(id=7),
    make_record(id=0),
    make_record(id=10**18 - 1),
    {"id": None, "source": None, **make_record()},
    _asked('"What"\\ is \t this?\r\n', "\n\n  A square.\b\f"),
    _asked("这是什么？", "これは四角です。"),
    _asked("\u3042", "\uac00"),
    _asked("é", "\U0001f600"),
    _asked('"', "\\"),
    _asked("a < b, x[0], <i>not</i>", "~/"),
]


@pytest.mark.parametrize("record", _PLAIN, ids=range(len(_PLAIN)))
@pytest.mark.parametrize("spell", [_spaced, _escaped, orjson.dumps])
def test_what_most_programs_write_is_plain(record: Any, spell: Any) -> None:
    assert _hold_law(spell(record))


_DOUBTFUL = [
    b"",
    b" ",
    b"{}",
    b"null",
    b"\xef\xbb\xbf" + orjson.dumps(make_record()),
    orjson.dumps(make_record()) + b" ",
    orjson.dumps(make_record()) + b"\r",
    orjson.dumps(make_record()) + b"}",
    orjson.dumps(make_record(), option=orjson.OPT_INDENT_2),
    orjson.dumps(make_record()).replace(b'"role"', b'"role" "content"', 1),
    orjson.dumps(make_record()).replace(b'"role":"user"', b'"role":"user","role":"user"'),
    orjson.dumps(make_record()).replace(b'"label"', b'"label":true,"label"'),
    orjson.dumps(make_record()).replace(b'"label"', b'"messages":[],"label"'),
    orjson.dumps(make_record()).replace(b'"label"', b'"messages":[{"role":"user","content":"a"}],"label"'),
    orjson.dumps(make_record()).replace(b'"label"', b'"messages":%b,"label"' % orjson.dumps(_PAIR)),
    *(orjson.dumps(make_record()).replace(b'"label"', twice + b'"label"') for twice in _TWICE),
    orjson.dumps(make_record()).replace(b'"content"', b'"content":"a","content"', 1),
    orjson.dumps(make_record()).replace(b'"label":', b'"label""id":1,"label":'),
    orjson.dumps(make_record()).replace(b'"role":"user","content":', b'"role""content":"a","role":"user"', 1),
    orjson.dumps(make_record()).replace(b'"role":', b'"role":,"role":', 1),
    orjson.dumps(make_record()).replace(b"red", b"\\\x00"),
    orjson.dumps(_LAST).replace("é".encode(), b"\xc3"),
    orjson.dumps(make_record()).replace(b"true", b"True"),
    orjson.dumps(make_record()).replace(b"true", b"trues"),
    orjson.dumps(make_record()).replace(b"true", b'"true"'),
    orjson.dumps(make_record()).replace(b"red", rb"\/"),
    orjson.dumps(make_record()).replace(b"red", rb"\u0072ed"),
    *(orjson.dumps(make_record()).replace(b"red", spelled) for spelled in _ESCAPES),
    *(_escaped(_asked(text)) for text in ("\u200b", "\u00ad", "\u3000 \n", "\ufeff", "\u1680")),
    orjson.dumps(make_record()).replace(b"red", b"\x00"),
    orjson.dumps(make_record()).replace(b"red", b"\\"),
    *(
        orjson.dumps(make_record(id=1)).replace(b":1", b":" + digits)
        for digits in (b"01", b"-1", b"1.0", b"1e3", b"+1")
    ),
    *(orjson.dumps(make_record(id=number)) for number in (10**18, 2**64 - 1, True, [1], {})),
    *(orjson.dumps(make_record(source=name)) for name in (1, False, [], {})),
    *(orjson.dumps(make_record(images=given)) for given in (["a.png"], {}, "")),
    orjson.dumps({**make_record(), "images": None}),
    *(orjson.dumps(make_record(**{name: value})) for name, value in (("tools", []), ("metadata", {}), ("x", 1))),
    *(orjson.dumps(make_record(label=label)) for label in ("yes", 1, 0, [])),
    orjson.dumps({"messages": make_record()["messages"]}),
    orjson.dumps({"label": True}),
    orjson.dumps(make_record(messages=[])),
    orjson.dumps(make_record(messages=[*_TURNS, *_TURNS[:2]])),
    orjson.dumps(make_record(messages=[{"role": "human", "content": "a"}, _TURNS[1]])),
    orjson.dumps(make_record(messages=[{"role": "user"}, _TURNS[1]])),
    orjson.dumps(make_record(messages=[{"content": "a"}, _TURNS[1]])),
    orjson.dumps(make_record(messages=[{"role": "user", "content": "a", "name": "b"}, _TURNS[1]])),
    orjson.dumps(make_record(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}, _TURNS[1]])),
    *(
        orjson.dumps(_asked(text))
        for text in ("", " ", "\n\t ", "\u200b", "\u00ad", "\u3000 ", "\ufeff", "\u1680", "<image>a")
    ),
]


_OUT_OF_ORDER = [_TURNS[:1], _TURNS[:3], [*_TURNS[:2], *_USED_TOOL[:1]], _TURNS[1:3]]


@pytest.mark.parametrize("raw", _DOUBTFUL, ids=range(len(_DOUBTFUL)))
def test_what_needs_a_second_look_is_doubtful(raw: bytes) -> None:
    assert not _is_plain(raw)
    assert _scan(raw, [len(raw)]) == (0, [0] * 6, [])


@pytest.mark.parametrize("messages", _OUT_OF_ORDER)
def test_roles_out_of_order_are_doubtful_and_the_next_line_is_read_all_the_same(messages: list[Any]) -> None:
    good, bad = orjson.dumps(make_record()), orjson.dumps(make_record(messages=messages))
    found = read_plain(*_block_of(good, bad, good))
    assert replace(found, doubtful=[]) == read_plain(*_block_of(good, good))
    assert found.doubtful == [1]


_TOKENS = [
    *("[INST]", "<<SYS>>", "<|im_start|>", "<|endoftext|>", "<bos>", "<start_of_turn>", "<｜User｜>", "<IMG_CONTEXT>"),
    *("<s>", "</s>", "[IMG]", "<global-img>", "<|image_12|>", *sorted(AMBIGUOUS)),
]


@pytest.mark.parametrize("token", _TOKENS)
@pytest.mark.parametrize("text", ["{}", "a {}", "{} b", "0123456789abcde{}"])
def test_no_text_with_a_control_token_is_plain(token: str, text: str) -> None:
    assert find_control_tokens(token)
    assert not _is_plain(orjson.dumps(_asked(text.format(token))))
    assert not _is_plain(orjson.dumps(_asked("a", text.format(token))))


def test_control_tokens_begin_with_what_the_compiled_code_stops_at() -> None:
    assert set(TOKEN_BEGINNINGS) == {b"<", b"["}
    assert set(plain.ROLES) == set(ROLES)


_content = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from('ab \n\t"\\<[|>/é\u200b\u3000世\U0001f600\x00\x1f\x7f'), max_size=40),
    st.sampled_from(["<image>", "<|im_end|>", "</s>", "[INST]", ""]),
)
_messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from([*ROLES, *ROLES, "human"]), "content": _content}), max_size=5
)
_pair = st.tuples(_content, _content).map(lambda both: _asked(*both)["messages"])
_records = st.fixed_dictionaries(
    {"messages": _pair | _messages, "label": st.booleans() | st.none()},
    optional={
        "id": st.integers() | _content | st.none(),
        "source": _content | st.none(),
        "images": st.just([]) | st.none(),
    },
)


@given(_records, st.sampled_from([_spaced, _escaped]), st.randoms())
def test_what_is_plain_is_clean_and_has_the_same_columns(record: Any, spell: Any, chance: random.Random) -> None:
    items = list(record.items())
    chance.shuffle(items)
    _hold_law(spell(dict(items)))


_put = st.binary(max_size=3) | st.sampled_from([b"\\", b'"', b"\\u", b"\\ud83d", b"\\udc00", b"<", b"\\u003c"])


@given(_records, st.sampled_from([_spaced, _escaped]), st.integers(0, 400), st.integers(0, 3), _put)
def test_bytes_put_anywhere_make_nothing_plain_that_is_not_clean(
    record: Any, spell: Any, at: int, dropped: int, put: bytes
) -> None:
    raw = spell(record)
    _hold_law(raw[:at] + put + raw[at + dropped :])


@given(st.binary(max_size=24), st.integers(0, 20))
def test_a_text_is_plain_only_in_valid_utf8(text: bytes, before: int) -> None:
    raw = orjson.dumps(_asked("@")).replace(b"@", b"a" * before + text)
    if _hold_law(raw):
        assert json.loads(raw.decode()) == orjson.loads(raw)


@pytest.mark.parametrize("first", range(0x80, 0x100))
def test_each_character_of_utf8_is_told_from_what_is_none(first: int) -> None:
    line = orjson.dumps(_asked("a@"))
    for second in (0x22, 0x5C, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
        for rest in (b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\xbf", b"\x80\x80\x80"):
            text = bytes([first, second]) + rest
            assert _is_plain(line.replace(b"@", text)) is _is_utf8(text), text


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_line_that_is_cut_anywhere_is_doubtful_whatever_follows() -> None:
    raw = _spaced(_PLAIN[6])
    for stop in range(len(raw)):
        assert not _is_plain(raw[:stop])
        # What would make it whole stands behind its end.
        assert read_plain(raw, [stop, len(raw)]).doubtful == [0, 1]


def test_nothing_behind_the_data_is_read() -> None:
    # The second page cannot be read: who tries ends the process.
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    ends_here = memoryview(pages)[: mmap.PAGESIZE]
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    for raw in [*map(_spaced, _PLAIN), *map(_escaped, _PLAIN), *filter(None, _DOUBTFUL)]:
        for stop in range(1, len(raw) + 1):
            data = ends_here[-stop:]
            data[:] = raw[:stop]
            assert _scan(data, [stop])[:2] == _scan(raw[:stop], [stop])[:2]


_CLEAN_BUT_NOT_PLAIN = [
    orjson.dumps(make_record()).replace(b"red", rb"red \/ blue"),
    orjson.dumps(make_record()).replace(b"red", rb"\u0072ed"),
    orjson.dumps(make_record()) + b"  ",
    orjson.dumps(_asked("<image>What is it?", images=["a.png"])),
    orjson.dumps(_asked("<image>And <image>it?", images=["b.png", "a.png"])),
]


def test_lines_of_a_block_are_told_apart() -> None:
    checker = LineChecker(Layout(), replace(EVERY_RULE, images=ImageCheck.OFF))
    chance = random.Random(0)
    kinds = [*map(_spaced, _PLAIN), *_CLEAN_BUT_NOT_PLAIN, *(raw for raw in _DOUBTFUL if b"\n" not in raw)]
    weights = [40 if raw in kinds[: len(_PLAIN)] else 8 if raw in _CLEAN_BUT_NOT_PLAIN else 1 for raw in kinds]
    num_looked_at_again = 0
    for number in range(300):
        lines = chance.choices(kinds, weights, k=chance.randrange(1, 60))
        data = b"\n".join(line.replace(b"square", b"square %d" % number) for line in lines) + b"\n"
        block = Block(path="data.jsonl", data=data, ends=tuple(line_ends(data)))
        found = Gate(checker).sift(block)
        plain_ones = read_plain(data, block.ends)
        with _without_the_code():
            assert found == Gate(checker).sift(block)
        # Some are found clean at the second look, behind some that are doubtful for good, and have images.
        again = set(plain_ones.doubtful) - set(found.doubtful)
        is_used = 4 * len(plain_ones.prompts) >= len(lines)
        num_looked_at_again += bool(is_used and again and min(found.doubtful, default=99) < max(again) and found.images)
    assert num_looked_at_again > 20


@pytest.mark.parametrize(
    ("more", "is_plain", "is_clean"),
    [
        ({}, True, True),
        ({"images": []}, False, True),
        ({"source": "web"}, False, False),
        ({"id": 1}, False, False),
    ],
)
def test_what_a_mapping_leaves_out_is_not_read(more: dict[str, Any], is_plain: bool, is_clean: bool) -> None:
    # What LLaMA-Factory's dataset_info.json says of records in OpenAI's format.
    columns = {name: name for name in ("messages", "label", "images")}
    tags = Tags(role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant")
    layout = Layout(format=Format.SHAREGPT, columns=columns, tags=tags, mapped_only=True)
    checker = LineChecker(layout, EVERY_RULE)
    line = Line("data.jsonl", 1, 0, orjson.dumps(make_record(**more)))
    assert (read_plain(line.raw, [len(line.raw)], may_have_more=False).doubtful == []) is is_plain
    (sample,) = checker.check(line).samples
    assert sample.record.source is None
    assert Gate(checker).clean(line.raw, line.path) == (describe(sample.record) if is_clean else None)


def _scan(
    data: bytes | memoryview, ends: list[int], *, longest: int = 5000, texts: int = 99, more_room: int = 0
) -> tuple[Any, ...]:
    lines, spans = array("q", [-1] * (6 * len(ends) + more_room)), array("q", [-1] * (texts + 8))
    written = plain.scan(data, array("q", ends), b"<im", longest, True, lines, memoryview(spans)[:texts])  # type: ignore[arg-type]
    assert spans[texts:] == array("q", [-1] * 8)
    return written, lines.tolist(), spans.tolist()[:written]


def test_places_are_those_of_the_texts_and_the_source() -> None:
    raw = orjson.dumps(_asked("Où?", "Là.", source="web", label=False))
    data = b"x\n" + raw
    written, lines, spans = _scan(data, [1, len(data)])
    assert (written, lines[:6]) == (4, [0] * 6)
    roles, label, is_escaped, length, start, stop = lines[6:]
    assert (roles, label, is_escaped, length, data[start:stop]) == (0b1_01_10, 0, 0, 3, b'"web"')
    assert [data[start:stop].decode() for start, stop in zip(spans[::2], spans[1::2], strict=True)] == [
        '"Où?"',
        '"Là."',
    ]


@pytest.mark.parametrize("texts", range(10))
def test_where_no_room_is_left_a_line_is_doubtful(texts: int) -> None:
    written, lines, _ = _scan(*_block_of(*[orjson.dumps(make_record())] * 3), texts=texts)
    assert written == texts // 4 * 4
    assert [bool(roles) for roles in lines[::6]] == [index < texts // 4 for index in range(3)]


def test_of_each_line_it_is_said_whether_it_is_escaped() -> None:
    lines = [spell(_asked("é")) for spell in (_escaped, _spaced, _escaped)]
    assert _scan(*_block_of(*lines))[1][2::6] == [1, 0, 1]


def test_a_line_longer_than_is_asked_for_is_doubtful() -> None:
    raw = orjson.dumps(make_record())
    assert _scan(raw, [len(raw)], longest=len(raw))[0] == 4
    assert _scan(raw, [len(raw)], longest=len(raw) - 1)[0] == 0


@pytest.mark.parametrize(
    ("ends", "more_room"),
    [([4], 0), ([-1], 0), ([2, 1], 0), ([2, 2], 0), ([2**62], 0), ([3, 4], 0), ([1, 3], -1), ([1, 3], 1), ([], 1)],
)
def test_ends_beyond_the_data_and_other_room_than_lines_need_are_refused(ends: list[int], more_room: int) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        _scan(b"abc", ends, more_room=more_room)


def test_every_field_of_what_was_sifted_is_compared() -> None:
    assert {field.name for field in fields(Sifted) if field.compare} == {
        *("prompts", "completions", "lengths", "shapes", "images", "doubtful")
    }


def test_the_code_was_compiled_where_it_can_be() -> None:
    assert plain.scan is not None


@pytest.mark.skipif(not CAN_COMPILE, reason=NO_COMPILER)
def test_the_code_compiles_without_a_warning(tmp_path: Path) -> None:
    flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-fPIC"]
    places = [f"-I{sysconfig.get_path('include')}", "-o", str(tmp_path / "scan.o"), str(ROOT / "kto_data/scan.c")]
    command = [COMPILER, "-c", *flags, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_that_lie_where_none_can_be_read_are_refused() -> None:
    raw = orjson.dumps(make_record())
    ends, lines, spans = array("q", [len(raw)]), array("q", [0] * 6), array("q", [0] * 8)
    for place in range(3):
        arrays: list[Any] = [ends, lines, spans]
        arrays[place] = memoryview(bytearray(8 * len(arrays[place]) + 8))[1:-7]
        with pytest.raises(ValueError, match="64 bits"):
            plain.scan(raw, arrays[0], b"<im", 5000, True, arrays[1], arrays[2])


def test_the_same_memory_given_twice_leads_nowhere_else() -> None:
    # What is written of the first line stands where the end of the second one stood: a huge number.
    raw = orjson.dumps(make_record(messages=[{"role": "tool", "content": "a"}] * 31))
    data = raw + b"\n" + raw
    lines = array("q", [len(raw), len(data), *[0] * 10])
    ends: Any = memoryview(lines)[:2]
    with pytest.raises(ValueError, match="must ascend"):
        plain.scan(data, ends, b"<im", 5000, True, lines, array("q", [0] * 400))


def test_code_of_another_contract_is_not_used() -> None:
    code = (
        "import sys, types; from kto_data import _scan;"
        "other = types.SimpleNamespace(scan=_scan.scan, CONTRACT=_scan.CONTRACT + 1);"
        "sys.modules['kto_data._scan'] = other; from kto_data.plain import scan; print(scan)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "None\n"


def test_without_the_code_the_program_finds_the_same(tmp_path: Path) -> None:
    # So many are plain that the others alone are looked at again.
    good = [_spaced(record).replace(b'"}', b' (%d)"}' % number) for number in range(40) for record in _PLAIN]
    lines = [*good, *(raw for raw in _DOUBTFUL if b"\n" not in raw)]
    random.Random(0).shuffle(lines)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    code = "import sys; {}; from kto_data.cli import run; run()"
    options = ["validate", str(path), "--output-format", "json", "--exit-zero"]
    reports = []
    for before in ("pass", "sys.modules['kto_data._scan'] = None"):
        command = [sys.executable, "-c", code.format(before), *options]
        reports.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
        del reports[-1]["run"]  # when it was
    assert reports[0] == reports[1]
    assert len(reports[0]["findings"]) > len(_DOUBTFUL) // 2

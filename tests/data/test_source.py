from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kto_data import json_array
from kto_data.chunk import Line, SourceKind
from kto_data.errors import InputError
from kto_data.json_array import BYTE_ORDER_MARK
from kto_data.opening import open_source

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), min_size=1, max_size=12)
chunk_sizes = st.integers(1, 13)
few = settings(max_examples=40, deadline=None)
OTHER_FORMATS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1", b"\xff\xfe", b"\xfe\xff")
"""By these first bytes a file called `.jsonl` is refused: gzip, zstd, zip, Parquet, UTF-16 in both orders."""


def read(path: Path | str, rows_per_chunk: int = 1000) -> list[Line]:
    """All lines, each chunk read as another process would: from its pickle."""
    chunks = open_source(str(path)).chunks(rows_per_chunk)
    return [line for chunk in chunks for line in pickle.loads(pickle.dumps(chunk)).lines()]


def places(lines: list[Line]) -> list[tuple[int, int, bytes]]:
    return [(line.number, line.byte_offset, line.raw) for line in lines]


def values(lines: list[Line]) -> list[Any]:
    return [json.loads(line.raw) for line in lines]


def expect_in_place(data: bytes, lines: list[Line]) -> None:
    for line in lines:
        assert data[line.byte_offset : line.byte_offset + len(line.raw)] == line.raw
        assert line.number == 1 + data[: line.byte_offset].count(b"\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("compressed", [False, True])
@few
@given(rows=objects, size=chunk_sizes, last_newline=st.booleans(), ascii=st.booleans())
def test_json_lines_keep_values_numbers_and_offsets(
    folder: Path, ending: str, compressed: bool, rows: list[Any], size: int, last_newline: bool, ascii: bool
) -> None:
    data = ending.join(json.dumps(row, ensure_ascii=ascii) for row in rows).encode()
    data += ending.encode() if last_newline else b""
    path = folder / ("rows.jsonl.gz" if compressed else "rows.jsonl")
    path.write_bytes(gzip.compress(data, 1) if compressed else data)
    lines = read(path, size)
    assert values(lines) == rows
    assert [line.number for line in lines] == list(range(1, len(rows) + 1))
    expect_in_place(data, lines)


@pytest.mark.parametrize("compressed", [False, True])
@few
@given(
    rows=objects,
    size=chunk_sizes,
    indent=st.sampled_from([None, 0, 2]),
    separators=st.sampled_from([(",", ":"), (" ,\r\n", " :\t")]),
    ascii=st.booleans(),
)
def test_json_arrays_keep_values_numbers_and_offsets(
    folder: Path, compressed: bool, rows: list[Any], size: int, indent: int | None, separators: Any, ascii: bool
) -> None:
    data = b"\n " + json.dumps(rows, indent=indent, separators=separators, ensure_ascii=ascii).encode() + b"\n"
    path = folder / ("rows.json.gz" if compressed else "rows.json")
    path.write_bytes(gzip.compress(data, 1) if compressed else data)
    lines = read(path, size)
    assert values(lines) == rows
    expect_in_place(data, lines)


@few
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"text": st.text(st.characters(codec="utf-8")), "label": st.booleans()},
            optional={"score": st.floats(allow_nan=False, allow_infinity=False), "tags": st.lists(st.integers(0, 9))},
        ),
        min_size=1,
        max_size=12,
    ),
    size=chunk_sizes,
)
def test_parquet_keeps_values_and_row_numbers(folder: Path, rows: list[Any], size: int) -> None:
    schema = {
        "text": polars.String,
        "label": polars.Boolean,
        "score": polars.Float64,
        "tags": polars.List(polars.Int64),
    }
    path = folder / "rows.parquet"
    polars.DataFrame(rows, schema=schema).write_parquet(path, row_group_size=5)
    lines = read(path, size)
    assert values(lines) == rows
    assert [(line.number, line.byte_offset) for line in lines] == [(i, 0) for i in range(1, len(rows) + 1)]


@few
@given(data=st.binary(min_size=1, max_size=200) | st.text('[]{},:"\\ \n1a', min_size=1).map(str.encode))
@example(data=b"PAR")
def test_no_byte_of_json_lines_is_lost(folder: Path, data: bytes) -> None:
    assume(not data.startswith(OTHER_FORMATS))
    path = folder / "any.jsonl"
    path.write_bytes(data)
    pieces = data.removesuffix(b"\n").split(b"\n")
    assert [line.raw for line in read(path, 3)] == [
        piece.removesuffix(b"\r") if i < len(pieces) - 1 or data.endswith(b"\n") else piece
        for i, piece in enumerate(pieces)
    ]


@few
@given(text=st.text('[]{},:"\\ \n1', min_size=1), size=chunk_sizes)
def test_a_broken_array_says_so_at_some_line(folder: Path, text: str, size: int) -> None:
    data = b"[" + text.encode()
    path = folder / "broken.json"
    path.write_bytes(data)
    try:
        expected = json.loads(data)
    except ValueError:
        expected = None
    try:
        lines = read(path, size)
    except InputError:
        assert expected == []
        return
    expect_in_place(data, lines)
    parsed = [_parses(line.raw) for line in lines]
    assert all(parsed) == (expected is not None)
    assert all(not ok for ok, line in zip(parsed, lines, strict=True) if line.problem)


def _parses(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1},\n]', [(1, 1, b'{"a": 1}', ""), (2, 11, b"", "a comma too many: no record before this ']'")]),
        ('[,{"a": 1}]', [(1, 1, b"", "a comma too many: no record before this ','"), (1, 2, b'{"a": 1}', "")]),
        ('[{"a": 1},\n {"b":', [(1, 1, b'{"a": 1}', ""), (2, 12, b'{"b":', "")]),
        ('[{"a": 1}\n', [(1, 1, b'{"a": 1}', ""), (2, 10, b"", "the file ends before the array does: ']' is missing")]),
        ('[{"a": 1}]\n[2]', [(1, 1, b'{"a": 1}', ""), (1, 9, b"]\n[2]", "text after the end of the array")]),
        ('[{"a": 1} {"b": 2}]', [(1, 1, b'{"a": 1} {"b": 2}', "")]),
        ('[{"a": 1}}, 2]', [(1, 1, b'{"a": 1}}', ""), (1, 12, b"2", "")]),
        ('[1, "a, b]", null]', [(1, 1, b"1", ""), (1, 4, b'"a, b]"', ""), (1, 13, b"null", "")]),
    ],
    ids=["trailing comma", "leading comma", "cut", "not closed", "text behind", "no comma", "brace", "no objects"],
)
def test_what_breaks_an_array_is_said_where_it_stands(tmp_path: Path, text: str, expected: list[Any]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert [tuple(line[1:]) for line in read(path)] == expected


def test_blank_lines_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n\n \r\n2")
    assert places(read(path, 2)) == [(1, 0, b"1"), (2, 2, b""), (3, 3, b" "), (4, 6, b"2")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_byte_order_mark_stays_with_the_first_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BYTE_ORDER_MARK + (b"[{},{}]" if name == "rows.json" else b"{}\n{}"))
    assert [line.raw for line in read(path)] == [BYTE_ORDER_MARK + b"{}", b"{}"]


def test_a_single_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('\n{\n "a": 1\n}\n')
    assert places(read(path)) == [(2, 1, b'{\n "a": 1\n}')]


def test_json_lines_under_the_name_json_are_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert open_source(str(path)).kind is SourceKind.JSONL
    assert values(read(path)) == [{"a": 1}, {"a": 2}]


def test_deep_and_large_elements_are_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    elements = [b"[" * 50_000 + b"]" * 50_000, b'"' + b'\\\\\\" ]' * 500_000 + b'"', b'{"a": 1}']
    path.write_bytes(b"[" + b",\n".join(elements) + b"]")
    assert [line.raw for line in read(path)] == elements


def test_standard_input_is_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}\n\n{"a": 2}')))
    chunks = list(open_source("-").chunks(2))
    assert b"".join(chunk.payload or b"" for chunk in chunks) == b'{"a": 1}\n\n{"a": 2}'
    lines = [line for chunk in chunks for line in chunk.lines()]
    assert places(lines) == [(1, 0, b'{"a": 1}'), (2, 9, b""), (3, 10, b'{"a": 2}')]


def test_the_digest_is_that_of_the_file_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert open_source(str(path)).digest() == (sha256, 3)


def test_parquet_leaves_out_nulls_and_keeps_nan(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "name": None}], "score": float("nan"), "images": None}]
    polars.DataFrame(rows).write_parquet(path)
    assert [line.raw for line in read(path)] == [b'{"messages": [{"role": "user"}], "score": NaN}']


def _missing(folder: Path) -> Path:
    (folder / "train.jsonl").write_text("{}")
    return folder / "trian.jsonl"


def _directory(folder: Path) -> Path:
    (folder / "data.jsonl").mkdir()
    return folder / "data.jsonl"


def _written(name: str, data: bytes) -> Any:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _in_other_case(folder: Path) -> Path:
    for name in ("a", "d", "n"):
        (folder / f"{name}.jsonl").touch()
    return folder / "D.jsonl"


def _dangling(folder: Path) -> Path:
    (folder / "link.jsonl").symlink_to("nowhere.jsonl")
    return folder / "link.jsonl"


def _not_utf8(folder: Path) -> Path:
    path = folder / os.fsdecode(b"\xff.jsonl")
    path.write_text("{}")
    return path


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jsonl")
    return folder / "pipe.jsonl"


def _binary_parquet(folder: Path) -> Path:
    polars.DataFrame({"images": [[{"bytes": b"x", "path": "a"}]]}).write_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def _no_rows_parquet(folder: Path) -> Path:
    polars.DataFrame({"label": []}).write_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


_GZIPPED = gzip.compress(b"\n".join(str(i * 7919 % 10007).encode() for i in range(20_000)))


@pytest.mark.parametrize(
    ("make", "what", "hint"),
    [
        (_missing, "{path} does not exist", "did you mean {folder}/train.jsonl?"),
        (_in_other_case, "{path} does not exist", "did you mean {folder}/d.jsonl?"),
        (_dangling, "{path} is a link to a file that does not exist", "mend the link, or remove it"),
        (_not_utf8, "the name of {path} is not UTF-8", None),
        (_directory, "{path} is a directory", "name its data files one by one"),
        (_fifo, "{path} is not a regular file", "pipe it in and read standard input: `-`"),
        (_written("rows.csv", b"a"), "{path}: unknown kind of file '.csv'", None),
        (_written("rows.jsonl", b""), "{path} has no rows", None),
        (_written("rows.jsonl", gzip.compress(b"{}")), "{path} is compressed with gzip", "end its name with .gz"),
        (_written("rows.json", "[]".encode("utf-16")), "{path} is text in UTF-16", None),
        (_written("rows.json", b" [\n] "), "{path} has no rows", None),
        (_written("rows.json", b" \n "), "{path} has no rows", None),
        (_written("rows.jsonl.gz", gzip.compress(b"")), "{path} has no rows", None),
        (_written("rows.jsonl.gz", b"{}"), "{path} is damaged: decompression fails in or after line 1: ", None),
        (_written("rows.jsonl.gz", _GZIPPED[:-9000]), "{path} is damaged: decompression fails in or after line ", None),
        (_written("rows.json.gz", gzip.compress(b"[1]")[:-4]), "{path} is damaged: decompression fails in or", None),
        (_written("rows.parquet", b"PAR1 no more"), "{path} cannot be read as parquet: ", None),
        (_binary_parquet, "{path}: column 'images' holds Binary values, which a record cannot hold", None),
        (_no_rows_parquet, "{path} has no rows", None),
    ],
)
def test_what_cannot_be_read_is_an_input_error(tmp_path: Path, make: Any, what: str, hint: str | None) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.what.startswith(what.format(path=path))
    assert caught.value.hint
    if hint is not None:
        assert caught.value.hint == hint.format(folder=tmp_path)


def test_of_a_url_it_is_told_that_its_suffix_is_unknown(tmp_path: Path) -> None:
    url = f"file://{_written('rows.csv', b'a')(tmp_path)}"
    with pytest.raises(InputError, match=r"rows\.csv: unknown kind of file '\.csv'") as caught:
        open_source(url)
    assert "< file://" not in caught.value.hint


def test_the_line_that_a_damaged_file_was_read_to_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(_GZIPPED[:-9000])
    with pytest.raises(InputError, match=r"in or after line \d{4,}: "):
        read(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\n2\n3\n")
    (chunk,) = open_source(str(path)).chunks()
    path.write_bytes(b"1\n")
    with pytest.raises(InputError, match="changed while it was read"):
        list(chunk.lines())


@pytest.mark.parametrize("element", [b"", b"1", b"[]", b"{}", b"nul"])
def test_an_array_without_strings_is_read_in_time_that_grows_with_its_size(element: bytes) -> None:
    """Each element once took as long as a megabyte of those behind it."""

    def seconds(number: int) -> float:
        started = time.process_time()
        found = list(json_array.spans(io.BytesIO(b"[" + (element + b",") * number + b"1]")))
        assert len(found) == number + 1
        return time.process_time() - started

    # Six times the elements: about six times as long, where it was thirty-six times.
    many, few = (min(seconds(number) for _ in range(3)) for number in (18_000, 3_000))
    assert many < 15 * few

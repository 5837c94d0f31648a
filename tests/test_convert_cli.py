"""`ktodata convert` as a program: what is written where, and what is said of it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl

from kto_data import storage
from kto_data.cli import main
from kto_data.inputs import open_inputs
from kto_data.mend.lines import raw_lines

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
TAGGED = {
    "chat": [{"who": "me", "text": "<image>What?"}, {"who": "it", "text": "A cat."}],
    "good": True,
    "pics": ["a.png"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(*arguments: str) -> int:
    return main(["convert", *arguments])


def records(path: str) -> list[Any]:
    return [json.loads(line) for line in raw_lines(open_inputs([path])[0].source)]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_the_name_of_the_output_says_how_it_is_packed(name: str) -> None:
    write_jsonl(Path("data.jsonl"), [PAIR, make_record()])
    assert convert("data.jsonl", "--output", name) == 0
    assert [(row["messages"][-1]["content"], row["label"]) for row in records(name)] == [
        ("So.", True), ("No.", False), ("The square is red.", True)
    ]  # fmt: skip
    assert Path(name).read_bytes()[:2] == {"out.jsonl": b'{"', "out.jsonl.gz": b"\x1f\x8b"}.get(name, b"\x28\xb5")


def test_a_registry_says_what_is_in_which_column() -> None:
    Path("data.json").write_text(json.dumps([TAGGED], indent=1))
    tags = {"role_tag": "who", "content_tag": "text", "user_tag": "me", "assistant_tag": "it"}
    entry = {
        "file_name": "data.json",
        "formatting": "sharegpt",
        "columns": {"messages": "chat", "kto_tag": "good", "images": "pics"},
        "tags": tags,
    }
    Path("dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert convert("--dataset-info", "dataset_info.json", "--dataset", "mine", "--output", "out.jsonl") == 0
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    assert records("out.jsonl") == [{"messages": turns, "label": True, "images": ["a.png"]}]


def test_folders_and_packed_arrays_are_read_whole() -> None:
    write_jsonl(Path("in/a.jsonl"), [make_record(id="a")])
    Path("in/b.json.gz").write_bytes(gzip.compress(json.dumps([make_record(id="b"), make_record(id="c")]).encode()))
    assert convert("in", "--output", "out.jsonl", "--quiet") == 0
    assert [row["id"] for row in records("out.jsonl")] == ["a", "b", "c"]


def test_the_next_command_names_where_the_images_of_data_at_a_url_start(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    data = write_jsonl(Path("in/data.jsonl"), [make_record(messages=turns, images=["a.png"])])
    assert convert(f"file://{data.resolve()}", "--output", "out.jsonl") == 0
    assert f"next: ktodata validate out.jsonl --image-root {data.resolve().parent}\n" in capsys.readouterr().err
    storage.put("memory://in/data.jsonl", data.read_bytes())
    assert convert("memory://in/data.jsonl", "--output", "out.jsonl") == 0
    assert "next: ktodata validate out.jsonl --image-root memory://in\n" in capsys.readouterr().err


def test_bad_rows_stop_the_conversion_and_leave_the_output_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(Path("data.jsonl"), [make_record(), make_record(label="true"), b"{"])
    Path("out.jsonl").write_text("before")
    assert convert("data.jsonl", "--output", "out.jsonl", "--report", "report.json") == 1
    assert sorted(os.listdir()) == ["data.jsonl", "out.jsonl"]
    assert Path("out.jsonl").read_text() == "before"
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [["data.jsonl:2:", "KTO402"], ["data.jsonl:3:", "KTO101"]]
    assert "nothing is written: 2 rows have errors, of 3 (KTO402 1, KTO101 1)" in err
    assert "or: ktodata validate --fix, which mends KTO402\n" in err


def test_bad_rows_are_rejected_with_their_reason_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(Path("data.jsonl"), [make_record(), make_record(label="true"), b"", b"{"])
    options = ["--rejects", "rejects.jsonl", "--report", "report.json"]
    assert convert("data.jsonl", "--output", "out.jsonl", *options) == 0
    assert records("out.jsonl") == [make_record()]
    entries = [json.loads(line) for line in Path("rejects.jsonl").read_bytes().splitlines()]
    assert [(entry["line"], entry["rules"]) for entry in entries] == [(2, ["KTO402"]), (4, ["KTO101"])]
    report = json.loads(Path("report.json").read_bytes())
    assert (report["rows"], report["rows_written"], report["rows_rejected"]) == (3, 1, 2)
    assert report["error_rows"] == {"KTO402": 1, "KTO101": 1}
    err = capsys.readouterr().err
    assert "rows with errors: KTO402 1, KTO101 1" in err
    assert "1 written + 2 rejected (in rejects.jsonl) = 3 rows read; 1 record in out.jsonl" in err


def test_an_output_without_a_row_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(Path("data.jsonl"), [b"{"])
    assert convert("data.jsonl", "--output", "out.jsonl", "--rejects", "rejects.jsonl") == 1
    assert os.listdir() == ["data.jsonl"]
    assert convert(str(write_jsonl(Path("blank.jsonl"), [b"", b" "])), "--output", "out.jsonl") == 2
    assert not Path("out.jsonl").exists()
    err = capsys.readouterr().err
    assert "nothing is written: 1 row has errors, of 1 (KTO101 1)" in err
    assert "--fix" not in err


def test_nothing_is_written_over_the_input() -> None:
    data = write_jsonl(Path("data.jsonl"), [PAIR])
    before = data.read_bytes()
    os.link("data.jsonl", "hard.jsonl")
    os.symlink("data.jsonl", "soft.jsonl")
    for name in ("data.jsonl", "hard.jsonl", "soft.jsonl"):
        assert convert("data.jsonl", "--output", name) == 2
        assert convert("data.jsonl", "--output", "out.jsonl", "--rejects", name) == 2
        assert convert("data.jsonl", "--output", "out.jsonl", "--report", name) == 2
    assert convert("data.jsonl", "--output", "out.jsonl", "--rejects", "-") == 2
    assert data.read_bytes() == before
    assert sorted(os.listdir()) == ["data.jsonl", "hard.jsonl", "soft.jsonl"]


@pytest.mark.parametrize("bad", [False, True])
def test_a_reader_that_goes_is_no_error(bad: bool) -> None:
    rows = [make_record(id=str(index), label="true" if bad else True) for index in range(20_000)]
    write_jsonl(Path("data.jsonl"), rows)
    reader, writer = os.pipe()
    os.close(reader)
    output = "out.jsonl" if bad else "-"  # the errors go to standard output where the rows do not
    command = [sys.executable, "-m", "kto_data", "convert", "data.jsonl", "--output", output]
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert run.returncode == 0, run.stderr
    assert "rror" not in run.stderr
    assert os.listdir() == ["data.jsonl"]

"""Numbers that grow with the rows are the same in memory and on disk."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from test_preprocess import files_of

from kto_data import column
from kto_data.check import CheckSettings
from kto_data.cli import main
from kto_data.column import Column, room
from kto_data.inputs import open_inputs
from kto_data.validate import validate


@pytest.fixture
def _on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few numbers are many."""
    monkeypatch.setattr(column, "MOST_BYTES", 100)
    monkeypatch.setattr(column, "_BLOCK_BYTES", 40)


@pytest.mark.usefixtures("_on_disk")
@pytest.mark.parametrize("size", [0, 1, 12, 13, 14, 500])
def test_a_column_has_what_was_put_into_it(size: int) -> None:
    numbers, found = list(range(2**63, 2**63 + size)), Column("Q")
    for start in range(0, size, 3):
        found.extend(array("Q", numbers[start : start + 3]))
    assert list(found.view) == numbers
    assert bool(found) == bool(numbers)
    found.extend(array("Q", [7]))
    assert [*found.view[-1:]] == [7]
    assert len(found.view) == size + 1


@pytest.mark.usefixtures("_on_disk")
def test_what_lies_on_disk_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = Column("B")
    found.extend(bytes(1000))
    space = room(1000)
    space[999] = 1
    assert len(found.view) == len(space) == 1000
    assert os.listdir(tmp_path) == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows with repeats, contradictions and images."""
    make_image(tmp_path / "a.png", 40, 50)
    rows: list[dict[str, Any]] = []
    for number in range(120):
        text = "<image>" * (number % 3 == 0) + f"Question {number % 40}?"
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"Answer {number % 50}."}]
        rows.append(make_record(messages=messages, images=["a.png"] * (number % 3 == 0), label=number % 7 < 4))
    return write_jsonl(tmp_path / "rows.jsonl", [*rows, *rows[:9], {**rows[0], "label": not rows[0]["label"]}])


def test_validation_finds_the_same_where_few_numbers_are_many(data: Path, request: pytest.FixtureRequest) -> None:
    inputs = open_inputs([str(data)])
    expected = validate(inputs, CheckSettings())
    request.getfixturevalue("_on_disk")
    found = validate(inputs, CheckSettings())
    assert found.survey == expected.survey
    assert found.counts == expected.counts
    assert {"KTO401", "KTO601"} <= found.counts.keys()


def test_a_cache_is_the_same_where_few_numbers_are_many(
    data: Path, tiny_model: TinyModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def make(name: str) -> dict[str, bytes]:
        command = ["preprocess", str(data), "--model", str(tiny_model("llava_next")), "--output", str(tmp_path / name)]
        more = ["--eval-fraction", "0.3", "--contradictions", "drop", "--shard-rows", "16", "--jobs", "1", "--quiet"]
        assert main([*command, *more]) == 0
        return files_of(tmp_path / name)

    expected = make("in-memory")
    request.getfixturevalue("_on_disk")
    assert make("on-disk") == expected

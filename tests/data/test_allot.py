"""`preprocess` where rows must know of each other: a split drawn from the data, and rows that contradict others."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from test_preprocess import files_of, rejects_of

from kto_data.allot import AllotSettings, allot
from kto_data.check import CheckSettings
from kto_data.cli import main
from kto_data.errors import InputError
from kto_data.inputs import open_inputs
from kto_data.manifest import read_manifest
from kto_data.policy import Contradictions

Run = Callable[..., int]
FRACTION = ("--eval-fraction", "0.3")


def says(question: str, answer: str, **overrides: Any) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return make_record(messages=[{"role": role, "content": text} for role, text in turns], **overrides)


def mixed_records(folder: Path, count: int = 60) -> list[dict[str, Any]]:
    """Records of which some share a prompt, some an image, and some an image under another name."""
    chance = random.Random(7)
    for number in range(12):
        make_image(folder / f"{number}.png", 40, 40, noise_seed=number)
        shutil.copy(folder / f"{number}.png", folder / f"copy of {number}.png")
    records = []
    for number in range(count):
        what = {"label": chance.random() < 0.6, "source": chance.choice("ab"), "id": number}
        if chance.random() < 0.4:
            image = chance.choice(["", "copy of "]) + f"{chance.randrange(12)}.png"
            records.append(says(f"<image>See {number}?", f"Answer {number}.", images=[image], **what))
        else:
            records.append(says(f"Question {chance.randrange(count)}?", f"Answer {number}.", **what))
    return records


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def run(tiny_model: TinyModel, cache: Path) -> Run:
    """Runs the command on a file, in shards of ten rows."""

    def run(data: Path | str, *options: str, jobs: str = "1", output: Path = cache) -> int:
        fixed = ["--model", str(tiny_model("llava")), "--output", str(output), "--shard-rows", "10", "--jobs", jobs]
        return main(["preprocess", str(data), *fixed, *options])

    return run


def lines_of(cache: Path, split: str) -> list[int]:
    return [row["source"]["line"] for row in datasets.load_from_disk(str(cache))[split]]


def shown_by(folder: Path, record: dict[str, Any]) -> set[object]:
    """What a record must not share with one of the other side."""
    return {record["messages"][0]["content"], *((folder / path).read_bytes() for path in record.get("images", ()))}


def test_the_splits_share_no_prompt_and_no_image_and_have_all_rows_in_order(
    run: Run, tmp_path: Path, cache: Path
) -> None:
    records = mixed_records(tmp_path)
    assert run(write_jsonl(tmp_path / "all.jsonl", records), *FRACTION) == 0
    train, held = lines_of(cache, "train"), lines_of(cache, "eval")
    assert sorted(train + held) == list(range(1, len(records) + 1))
    assert (train, held) == (sorted(train), sorted(held))
    assert 0.1 < len(held) / len(records) < 0.5
    sides = [set().union(*(shown_by(tmp_path, records[line - 1]) for line in lines)) for lines in (train, held)]
    assert sides[0].isdisjoint(sides[1])
    report = json.loads((cache / "report.json").read_bytes())["splits"]["eval"]
    assert report["leakage"] == {"num_same_prompt": 0, "num_same_image": 0}
    manifest = read_manifest(cache)
    assert {name: manifest.parts[name] for name in ("eval_fraction", "seed", "contradictions")} == {
        "eval_fraction": 0.3,
        "seed": 0,
        "contradictions": "keep",
    }
    assert [(entry.split, entry.rows) for entry in manifest.inputs] == [("train", len(records))]


def test_neither_jobs_nor_an_earlier_run_change_a_byte_of_the_splits(run: Run, tmp_path: Path, cache: Path) -> None:
    data = write_jsonl(tmp_path / "all.jsonl", mixed_records(tmp_path))
    options = (*FRACTION, "--contradictions", "drop")
    assert run(data, "--eval-fraction", "0.2") == 0
    assert run(data, *options) == 0
    assert run(data, *options, jobs="2", output=tmp_path / "afresh") == 0
    assert files_of(cache) == files_of(tmp_path / "afresh")


def test_a_second_run_finds_the_keys_and_all_else_done(
    run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "all.jsonl", mixed_records(tmp_path))
    assert run(data, *FRACTION) == 0
    keys = sorted((cache / ".units").glob("keys-*"))
    assert len(keys) == 6
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.name != ".lock"}
    assert run(data, *FRACTION) == 0
    assert "nothing has changed" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_rows_that_are_added_move_no_other_and_cost_their_shards_alone(
    run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = mixed_records(tmp_path)
    data = write_jsonl(tmp_path / "all.jsonl", records)
    assert run(data, *FRACTION) == 0
    held, num_shards = lines_of(cache, "eval"), len(list(cache.glob("*/*.arrow")))
    added = [says(f"Quite new {number}?", "Yes.", label=number % 2 == 0) for number in range(20)]
    write_jsonl(data, records + added)
    assert run(data, *FRACTION) == 0
    now = lines_of(cache, "eval")
    assert [line for line in now if line <= len(records)] == held
    assert len(now) > len(held)
    said = capsys.readouterr().err
    assert f"{num_shards} of {len(list(cache.glob('*/*.arrow')))} shards were done already" in said


def test_an_image_that_becomes_another_ties_other_rows(run: Run, tmp_path: Path, cache: Path) -> None:
    """By one of the same name and size: its keys must not be those of the run before."""
    for number in range(20):
        make_image(tmp_path / f"{number}.png", 40, 40, noise_seed=number)
    rows = [says(f"<image>See {i}?", "Yes.", images=[f"{i}.png"], label=i % 2 == 0) for i in range(20)]
    data = write_jsonl(tmp_path / "all.jsonl", rows)
    assert run(data, *FRACTION) == 0
    train, held = lines_of(cache, "train"), lines_of(cache, "eval")
    shutil.copy(tmp_path / f"{train[0] - 1}.png", tmp_path / f"{held[-1] - 1}.png")
    assert run(data, *FRACTION) == 0
    assert (train[0] in lines_of(cache, "train")) is (held[-1] in lines_of(cache, "train"))
    assert run(data, *FRACTION, output=tmp_path / "afresh") == 0
    assert files_of(cache) == files_of(tmp_path / "afresh")


@pytest.mark.parametrize("options", [(), FRACTION])
def test_an_image_that_could_not_be_looked_at_is_looked_at_again(
    run: Run, tmp_path: Path, cache: Path, options: tuple[str, ...]
) -> None:
    for number in range(20):
        make_image(tmp_path / f"{number}.png", 40, 40, noise_seed=number)
    data = write_jsonl(
        tmp_path / "all.jsonl",
        [says(f"<image>See {i}?", "Yes.", images=[f"{i}.png"], label=i % 2 == 0) for i in range(20)],
    )
    (tmp_path / "3.png").rename(tmp_path / "kept.png")
    (tmp_path / "3.png").symlink_to("3.png")  # in a circle, which is nothing that the record can be blamed for
    assert run(data, *options, "--invalid", "drop") == 0
    assert read_manifest(cache).splits["train"].counts.dropped == {"KTO901": 1}
    (tmp_path / "kept.png").rename(tmp_path / "3.png")
    assert run(data, *options, "--invalid", "drop") == 0
    assert run(data, *options, "--invalid", "drop", output=tmp_path / "afresh") == 0
    assert files_of(cache) == files_of(tmp_path / "afresh")


def test_rows_that_cannot_be_trained_on_are_counted_in_train(run: Run, tmp_path: Path, cache: Path) -> None:
    records: list[Any] = mixed_records(tmp_path)
    records[3], records[17] = b"{broken", says("Question 5?", " ")
    records[30] = b""
    data = write_jsonl(tmp_path / "all.jsonl", records)
    assert run(data, *FRACTION) == 1
    assert run(data, *FRACTION, "--invalid", "drop") == 0
    splits = read_manifest(cache).splits
    assert splits["train"].counts.dropped == {"KTO101": 1, "KTO306": 1}
    assert splits["eval"].counts.dropped == {}
    assert splits["train"].counts.read + splits["eval"].counts.read == len(records) - 1  # a blank line is no row
    assert lines_of(cache, "train") + lines_of(cache, "eval")


def test_rows_are_parted_whatever_file_they_are_in(run: Run, tmp_path: Path) -> None:
    """An array on one line, in which all records have the same line."""
    records = mixed_records(tmp_path)
    expected = None
    lines = write_jsonl(tmp_path / "all.jsonl", records)
    array = tmp_path / "all.json"
    array.write_text(json.dumps(records))
    table = tmp_path / "all.parquet"
    datasets.Dataset.from_list([{**record, "images": record.get("images", [])} for record in records]).to_parquet(table)
    for data in (lines, array, table):
        cache = tmp_path / f"cache of {data.suffix}"
        assert run(data, *FRACTION, "--image-root", str(tmp_path), output=cache) == 0
        held = [row["id"] for row in datasets.load_from_disk(str(cache))["eval"]]
        expected = expected or held
        assert held == expected


def votes(*labels: bool, question: str = "Well?") -> list[dict[str, Any]]:
    return [says(question, "Yes.", label=label) for label in labels]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("keep", [1, 2, 3, 4, 5, 6, 7, 8]), ("drop", [6, 7, 8]), ("majority", [1, 3, 6, 7, 8])],
)
def test_contradictions_are_counted_and_go_as_asked(
    run: Run, tmp_path: Path, cache: Path, policy: str, kept: list[int]
) -> None:
    rows = [*votes(True, False, True), *votes(True, False, question="And?"), *votes(True, True, question="Else?")]
    rows.append(says("Well?", "No.", label=False))  # another answer to the same question
    assert run(write_jsonl(tmp_path / "all.jsonl", rows), "--contradictions", policy) == 0
    assert lines_of(cache, "train") == kept
    counts = read_manifest(cache).splits["train"].counts
    gone = [line for line in range(1, 9) if line not in kept]
    assert [(entry["line"], entry["rules"]) for entry in rejects_of(cache)] == [(line, ["KTO401"]) for line in gone]
    labels = [str(rows[line - 1]["label"]).lower() for line in gone]
    assert counts.dropped_by_label.get("KTO401", {}) == {label: labels.count(label) for label in sorted(set(labels))}
    assert counts.read == counts.kept + sum(counts.dropped.values()) == 8


def test_a_pair_that_contradicts_another_goes_as_a_whole(run: Run, tmp_path: Path, cache: Path) -> None:
    def pair(chosen: str, rejected: str) -> dict[str, Any]:
        sides = {"chosen": chosen, "rejected": rejected}
        answers = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
        return {"prompt": [{"role": "user", "content": "Say it."}], **answers}

    data = write_jsonl(tmp_path / "pairs.jsonl", [pair("yes", "no"), pair("maybe", "yes"), pair("fine", "bad")])
    assert run(data, "--contradictions", "majority") == 0
    assert lines_of(cache, "train") == [3, 3]
    assert read_manifest(cache).splits["train"].counts.dropped_by_label["KTO401"] == {"false": 2, "true": 2}


def test_an_eval_file_that_contradicts_the_training_is_no_less_wrong(run: Run, tmp_path: Path, cache: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [*votes(True, True), says("Else?", "No.", label=False)])
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [*votes(False), says("Else?", "Yes.")])
    assert run(data, "--eval-data", str(evaluation), "--contradictions", "majority") == 0
    assert (lines_of(cache, "train"), lines_of(cache, "eval")) == ([1, 2, 3], [2])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eval-fraction", "0"), "is no part of the rows"),
        (("--eval-fraction", "1"), "is no part of the rows"),
        (("--eval-fraction", "nan"), "is no part of the rows"),
        ((*FRACTION, "--eval-data", "eval.jsonl"), "cannot be given together"),
        (FRACTION, "all 3 rows share a prompt or an image"),
    ],
)
def test_what_cannot_be_split_is_said_in_words(
    run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str
) -> None:
    data = write_jsonl(tmp_path / "all.jsonl", votes(True, False, True))
    assert run(data, *options) == 2
    assert told in capsys.readouterr().err
    assert not (cache / "manifest.json").exists()


@pytest.mark.parametrize("options", [FRACTION, ("--contradictions", "drop")])
def test_standard_input_cannot_be_read_twice(
    run: Run, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    assert run("-", *options) == 2
    assert f"{options[0]} reads its input twice" in capsys.readouterr().err


def test_the_first_pass_tells_how_far_it_is(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "all.jsonl", [says(f"{i}?", "Yes.") for i in range(25)])
    told: list[tuple[int, float | None]] = []
    allot(
        AllotSettings(eval_fraction=0.3),
        open_inputs([str(data)]),
        CheckSettings(image_root=tmp_path),
        rows_per_chunk=10,
        jobs=1,
        folder=tmp_path / "building",
        caches=(),
        progress=lambda num_rows, share: told.append((num_rows, share)),
    )
    assert [num_rows for num_rows, _ in told] == [10, 20, 25]
    shares = [share or 0 for _, share in told]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1


def test_a_file_that_changes_between_the_passes_is_not_parted_by_what_it_was(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "all.jsonl", [says(f"{i}?", "Yes.") for i in range(20)])
    (entry,) = open_inputs([str(data)])
    settings = AllotSettings(eval_fraction=0.3, contradictions=Contradictions.DROP)
    folder = tmp_path / "building"
    allotment = allot(
        settings, [entry], CheckSettings(image_root=tmp_path), rows_per_chunk=10, jobs=1, folder=folder, caches=()
    )
    first, second = entry.source.chunks(10)
    assert [part.split for part in allotment.parts(first, "train")] == ["train", "eval"]
    write_jsonl(data, [says(f"{i}!", "Yes.") for i in range(20)])
    with pytest.raises(InputError, match="changed while it was read"):
        list(allotment.parts(second, "train"))

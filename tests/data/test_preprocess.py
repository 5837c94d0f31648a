"""Preprocessing: nothing lost, nothing half done, and the same bytes however the work was divided."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import TinyModel, make_image, make_record, model_that_fastokens_misreads, write_jsonl

from kto_data.allot import AllotSettings
from kto_data.build import BuildSettings
from kto_data.chunk import Chunk, SourceKind
from kto_data.cli import main
from kto_data.commands.preprocess import _remedy
from kto_data.image import PixelBudget
from kto_data.inputs import open_inputs
from kto_data.lost import lost_rows
from kto_data.manifest import Manifest, read_manifest
from kto_data.preprocess import FIRST_PASS, preprocess
from kto_data.recipe import PreprocessSettings
from kto_data.so_far import MAX_FINDINGS, FindingsSoFar

Run = Callable[..., int]
KTODATA = [sys.executable, "-m", "kto_data"]


def image_record(path: str, **overrides: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A shape."}]
    return make_record(messages=messages, images=[path], **overrides)


def text_record(answer: str, **overrides: Any) -> dict[str, Any]:
    return make_record(
        messages=[{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}], **overrides
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def run(tiny_model: TinyModel, cache: Path) -> Run:
    """Runs the command on a file, with a tiny model that takes images."""

    def run(data: Path, *options: str, model: str = "llava_next") -> int:
        return main(["preprocess", str(data), "--model", str(tiny_model(model)), "--output", str(cache), *options])

    return run


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Text rows first, then image rows, then text again: 9 rows."""
    make_image(tmp_path / "wide.png", 120, 40)
    make_image(tmp_path / "turned.jpg", 90, 30, orientation=6)
    rows = [text_record(f"answer {i}", label=i % 2 == 0, id=i) for i in range(4)]
    rows += [image_record("wide.png", label=False, source="a"), image_record("turned.jpg", label=True, source="b")]
    rows += [text_record(f"more {i}", label=i % 2 == 0) for i in range(3)]
    return write_jsonl(tmp_path / "train.jsonl", rows)


def rows_of(cache: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(datasets.load_from_disk(str(cache))[split])


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a cache, without what differs from run to run, and what one that ended badly has left."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in paths if path.parts[0] not in (".building", "run.json")}


def rejects_of(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cache / "rejects.jsonl").read_bytes().splitlines()]


def test_a_cache_opens_with_plain_datasets_in_source_order(run: Run, mixed: Path, cache: Path) -> None:
    assert run(mixed, "--shard-rows", "2", "--jobs", "1") == 0
    rows = rows_of(cache)
    assert [row["source"] for row in rows] == [{"file": str(mixed), "line": line} for line in range(1, 10)]
    assert [row["label"] for row in rows] == [json.loads(line)["label"] for line in mixed.read_bytes().splitlines()]
    assert [row["id"] for row in rows[:5]] == ["0", "1", "2", "3", None]
    assert [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows] == [row["num_tokens"] for row in rows]


def test_images_are_recorded_upright_and_within_the_budget(run: Run, mixed: Path, cache: Path) -> None:
    assert run(mixed, "--image-max-pixels", "1200") == 0
    images = [image for row in rows_of(cache) for image in row["images"]]
    assert [(image["path"], image["width"], image["height"]) for image in images] == [
        ("wide.png", 60, 20),
        ("turned.jpg", 20, 60),
    ]
    assert sum(image["num_tokens"] for image in images) == read_manifest(cache).splits["train"].num_image_tokens


def test_the_number_of_jobs_changes_no_byte(run: Run, mixed: Path, cache: Path) -> None:
    made = []
    for jobs in ("1", "2"):
        assert run(mixed, "--shard-rows", "2", "--jobs", jobs) == 0
        made.append(files_of(cache))
    assert made[0] == made[1]


def test_read_is_kept_plus_dropped_by_reason_and_label(run: Run, tmp_path: Path, cache: Path) -> None:
    rows = [
        text_record("good", label=True),
        text_record("good too", label=False),
        text_record(" ", label=False),  # KTO306
        image_record("missing.png", label=True),  # KTO201
        b"{broken",  # KTO101
        text_record("long " * 200, label=True),  # KTO501
    ]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    assert run(data, "--invalid", "drop", "--too-long", "drop", "--max-length", "200") == 0
    counts = read_manifest(cache).splits["train"].counts
    assert (counts.read, counts.kept) == (6, 2)
    assert counts.dropped == {"KTO101": 1, "KTO201": 1, "KTO306": 1, "KTO501": 1}
    assert counts.dropped_by_label["KTO501"] == {"true": 1}
    assert counts.dropped_by_label["KTO101"] == {"unreadable": 1}
    lines = data.read_bytes().splitlines()
    assert [(r["line"], r["rules"]) for r in rejects_of(cache)] == [
        (3, ["KTO306"]),
        (4, ["KTO201"]),
        (5, ["KTO101"]),
        (6, ["KTO501"]),
    ]
    assert [r["raw"].encode() for r in rejects_of(cache)] == lines[2:]


def test_a_row_that_is_not_utf8_is_kept_in_the_rejects(run: Run, tmp_path: Path, cache: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [text_record("good"), b'{"label": "\xff"}'])
    assert run(data, "--invalid", "drop") == 0
    (reject,) = rejects_of(cache)
    assert reject["raw_base64"] == "eyJsYWJlbCI6ICL/In0="


def test_errors_in_the_data_leave_an_earlier_cache_as_it_was(
    run: Run, mixed: Path, cache: Path, tmp_path: Path
) -> None:
    assert run(mixed) == 0
    before = files_of(cache)
    bad = write_jsonl(tmp_path / "bad.jsonl", [text_record("good"), text_record(""), make_record(label="true")])
    assert run(bad) == 1
    assert files_of(cache) == before


def test_all_errors_of_all_rows_are_told_in_one_pass(
    run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [text_record(""), text_record("fine"), make_record(label="true")])
    assert run(bad) == 1
    out = capsys.readouterr().out
    assert "KTO306" in out
    assert "KTO402" in out
    assert not (cache / "manifest.json").exists()


def test_no_remedy_is_named_that_does_not_help(
    run: Run, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*rows: Any, options: Sequence[str] = ()) -> str:
        assert run(write_jsonl(tmp_path / "told.jsonl", rows), "--image-root", str(mixed.parent), *options) == 1
        return capsys.readouterr().err.rstrip().rpartition("\n")[2]

    sound, empty, long = text_record("fine", label=False), text_record(""), text_record("long " * 99)
    formats = sound, {"prompt": "Say it.", "completion": "fine", "label": True}
    assert told(sound, empty).endswith("leave them out with --invalid drop")
    assert told(sound, long, options=["--max-length", "50"]).endswith("leave them out with --too-long drop")
    both = told(sound, empty, long, options=["--max-length", "50", "--invalid", "drop"])
    assert both.endswith("leave them out with --invalid drop --too-long drop")
    mixture = told(*formats, empty, options=["--invalid", "drop"])
    assert "ktodata rule KTO114" in mixture
    assert "drop" not in mixture
    lost = FindingsSoFar()
    rows = Chunk(path="a.jsonl", local="a.jsonl", kind=SourceKind.JSONL, num_rows=8, first_line=17)
    lost.add([lost_rows(rows, "train/shard-00002.arrow")])
    assert "run again, which goes on from here" in _remedy(lost)
    assert "drop" not in _remedy(lost)


def test_it_is_said_at_once_what_is_begun(mixed: Path, cache: Path, tiny_model: TinyModel) -> None:
    told: list[tuple[Any, ...]] = []
    build = BuildSettings(model=str(tiny_model("llava_next")), image_root=str(mixed.parent), budget=PixelBudget())
    settings = PreprocessSettings(
        inputs={"train": open_inputs([str(mixed)])},
        output=cache,
        build=build,
        allot=AllotSettings(eval_fraction=0.5),
        shard_rows=100,
        jobs=1,
        batch_size=4,
    )
    preprocess(settings, lambda *so_far: told.append(so_far))
    passes = [stage for *_, stage in told]
    assert passes == [FIRST_PASS, FIRST_PASS, "", "", ""]
    assert told[0] == (0, 0, None, 0, 0, FIRST_PASS)
    assert told[2] == (0, 0, None, 0, 0, "")


def test_rows_too_long_stop_the_run_unless_asked_otherwise(run: Run, mixed: Path, cache: Path) -> None:
    assert run(mixed, "--max-length", "20") == 1
    assert run(mixed, "--max-length", "20", "--invalid", "drop") == 1
    assert run(mixed, "--max-length", "60", "--too-long", "truncate-completion", "--invalid", "drop") == 0
    manifest = read_manifest(cache)
    assert manifest.max_length == 60
    assert manifest.splits["train"].max_num_tokens <= 60


def test_completions_that_lose_their_tail_are_counted_by_label_and_told(
    run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [(True, 1), (False, 1), (True, 90), (False, 80), (True, 70), (None, 60)]  # one of them cannot be read
    rows = [text_record("word " * length, label="?" if label is None else label) for label, length in answers]
    options = ["--max-length", "100", "--too-long", "truncate-completion", "--invalid", "drop"]
    assert run(write_jsonl(tmp_path / "train.jsonl", rows), *options) == 0
    manifest = read_manifest(cache)
    assert manifest.splits["train"].counts.truncated_by_label == {"false": 1, "true": 2}
    assert [row["num_tokens"] for row in rows_of(cache)][2:] == [100] * 3
    told = "3 completions lost the tail (2 desirable, 1 undesirable): an answer without its end is taught as one"
    report = json.loads((cache / "report.json").read_bytes())
    assert {"kind": "truncated", "split": "train", "text": told} in report["remarks"]
    assert told in " ".join(capsys.readouterr().out.split())
    for name in ("report.md", "report.html"):
        assert told in (cache / name).read_text(encoding="utf-8")


def test_an_eval_split_is_made_of_its_own_files(run: Run, mixed: Path, tmp_path: Path, cache: Path) -> None:
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [text_record("held out", label=False)])
    assert run(mixed, "--eval-data", str(evaluation)) == 0
    assert [row["source"]["file"] for row in rows_of(cache, "eval")] == [str(evaluation)]
    assert [(i.split, i.rows) for i in read_manifest(cache).inputs] == [("train", 9), ("eval", 1)]


def test_half_of_a_pair_is_never_kept(run: Run, tmp_path: Path, cache: Path) -> None:
    prompt = [{"role": "user", "content": "Say it."}]

    def pair(chosen: str, rejected: str) -> dict[str, Any]:
        return {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }

    data = write_jsonl(tmp_path / "pairs.jsonl", [pair("yes", "no"), pair("fine", "  ")])
    assert run(data, "--invalid", "drop") == 0
    assert [row["label"] for row in rows_of(cache)] == [True, False]
    assert read_manifest(cache).splits["train"].counts.dropped_by_label == {"KTO306": {"false": 1, "true": 1}}


def test_a_mapping_that_forgets_the_images_makes_no_cache(run: Run, mixed: Path, tmp_path: Path, cache: Path) -> None:
    columns = {"messages": "messages", "kto_tag": "label"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": mixed.name, "formatting": "sharegpt", "columns": columns, "tags": tags}
    registry = tmp_path / "dataset_info.json"
    registry.write_text(json.dumps({"mine": entry}))
    options = ["--dataset-info", str(registry), "--dataset", "mine"]
    assert run(mixed, *options, "--invalid", "drop") == 1
    assert not (cache / "manifest.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--report", "json:{data}"],
        ["--report", "json:{data}.txt", "--report", "html:{data}.txt"],
        ["--report", "json:{cache}"],
        ["--image-min-pixels", "100", "--image-max-pixels", "10"],
        ["--shard-rows", "99999999999999999999"],
        ["--batch-size", "99999999999999999999"],
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_row_is_read(
    run: Run, mixed: Path, cache: Path, options: list[str]
) -> None:
    before = mixed.read_bytes()
    assert run(mixed, *(option.format(data=mixed, cache=cache) for option in options)) == 2
    assert mixed.read_bytes() == before
    assert not cache.exists()


@pytest.mark.parametrize("how", ["map", "registry"])
def test_both_splits_are_read_as_the_columns_are_said_to_be(run: Run, tmp_path: Path, cache: Path, how: str) -> None:
    rows = [{"instruction": f"Q {i}?", "output": f"A {i}.", "verdict": i % 2 == 0} for i in range(4)]
    train, held = (write_jsonl(tmp_path / f"{name}.jsonl", rows) for name in ("train", "held"))
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "verdict"}
    registry = tmp_path / "dataset_info.json"
    registry.write_text(json.dumps({"mine": {"file_name": train.name, "columns": columns}}))
    options = ["--map", "label=verdict"] if how == "map" else ["--dataset-info", str(registry), "--dataset", "mine"]
    assert run(train, "--eval-data", str(held), *options) == 0
    assert [split.counts.kept for split in read_manifest(cache).splits.values()] == [4, 4]


def test_a_file_is_of_one_split(run: Run, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [make_record(label=index % 2 == 0, id=index) for index in range(4)]
    write_jsonl(folder / "train.jsonl", rows)
    held = write_jsonl(folder / "eval.jsonl", rows[:2])
    assert run(folder, "--eval-data", str(held)) == 0
    assert [split.counts.kept for split in read_manifest(cache).splits.values()] == [4, 2]
    assert run(held, "--eval-data", str(held)) == 2
    assert "no file is left to train on" in capsys.readouterr().err


def test_standard_input_is_preprocessed_and_hashed(
    tiny_model: TinyModel, mixed: Path, cache: Path, tmp_path: Path
) -> None:
    command = ["preprocess", "-", "--model", str(tiny_model("text")), "--output", str(cache)]
    text_only = b"".join(line for line in mixed.read_bytes().splitlines(keepends=True) if b"images" not in line)
    subprocess.run([*KTODATA, *command], input=text_only, check=True, cwd=tmp_path)
    (entry,) = read_manifest(cache).inputs
    assert (entry.sha256, entry.bytes, entry.rows) == (hashlib.sha256(text_only).hexdigest(), len(text_only), 7)


def test_a_folder_that_holds_something_else_is_left_alone(
    run: Run, mixed: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    (cache / "thesis.tex").write_text("years of work")
    assert run(mixed) == 2
    assert "holds no cache" in capsys.readouterr().err
    assert files_of(cache) == {"thesis.tex": b"years of work"}


def test_a_second_run_on_one_cache_says_so_and_stops(
    run: Run, mixed: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(mixed) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_a_full_disk_is_told_in_one_line_and_leaves_no_cache(tiny_model: TinyModel, mixed: Path, cache: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [*KTODATA, "preprocess", str(mixed), "--model", str(tiny_model("llava")), "--output", str(cache)],
        preexec_fn=small_files_only,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},  # measuring writes too
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(files_of(cache)) <= {".lock"}


def test_rows_left_to_nobody_is_an_error(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", [text_record("")])
    assert run(data, "--invalid", "drop") == 2
    assert "no row of the train split is left" in capsys.readouterr().err


def test_the_fingerprint_names_what_it_is_made_of(run: Run, mixed: Path, cache: Path) -> None:
    def made(*options: str) -> Manifest:
        assert run(mixed, *options) == 0
        return read_manifest(cache)

    plain, longer = made(), made("--max-length", "4000")
    assert plain.fingerprint != longer.fingerprint
    assert {k for k in plain.parts if plain.parts[k] != longer.parts[k]} == {"max_length"}
    assert made().fingerprint == plain.fingerprint


def test_what_differs_from_run_to_run_is_kept_apart(run: Run, mixed: Path, cache: Path) -> None:
    assert run(mixed) == 0
    record = json.loads((cache / "run.json").read_bytes())
    assert (record["rows"], record["units"], record["units_reused"]) == (9, 1, 0)
    assert record["ids_by"] == ["tokenizers"]


def test_the_cache_has_the_same_bytes_with_and_without_fastokens(
    tiny_model: TinyModel, tmp_path: Path, mixed: Path
) -> None:
    model = str(tiny_model("llava_next"))
    ids_by = [preprocess_by(model, mixed, tmp_path / name, after) for name, after in (("with", 0), ("without", None))]
    assert [one.partition(" ")[0] for one in ids_by] == ["fastokens", "tokenizers"]
    assert files_of(tmp_path / "with") == files_of(tmp_path / "without")


def test_where_fastokens_is_found_wrong_all_is_made_anew_without_it(
    tiny_model: TinyModel, tmp_path: Path, mixed: Path
) -> None:
    model = model_that_fastokens_misreads(tiny_model("text"), tmp_path / "model")
    rows = [text_record(f"plain {number}") for number in range(4)] + [text_record("Aegean one: \U00010107!")]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    assert preprocess_by(str(model), data, tmp_path / "with", 0).startswith("tokenizers")
    preprocess_by(str(model), data, tmp_path / "without", None)
    assert files_of(tmp_path / "with") == files_of(tmp_path / "without")


def preprocess_by(model: str, data: Path, cache: Path, fast_after: int | None) -> str:
    """Make the cache, a row a shard, with fastokens taken up after so many characters; what made the last ids."""
    settings = PreprocessSettings(
        inputs={"train": open_inputs([str(data)])},
        output=cache,
        build=BuildSettings(model=model, image_root=str(data.parent), budget=PixelBudget(), fast_after=fast_after),
        shard_rows=1,
        jobs=1,
        batch_size=4,
    )
    preprocess(settings, lambda *numbers: None)
    ids_by: list[str] = json.loads((cache / "run.json").read_bytes())["ids_by"]
    return ids_by[0]


def test_every_bad_row_is_counted_and_rejected_and_the_first_of_each_rule_told(
    run: Run, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_bad = MAX_FINDINGS + 200
    rows = [text_record(f"answer {i}", label=i % 2 == 0) for i in range(4)]
    data = write_jsonl(tmp_path / "train.jsonl", [*rows, *[make_record(label="yes", id=i) for i in range(num_bad)]])
    assert run(data, "--invalid", "drop", "--shard-rows", "500") == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("KTO402" in line and ".jsonl:" in line for line in said) == MAX_FINDINGS
    assert "… and 200 more of KTO402" in said
    lines = [json.loads(line)["line"] for line in (cache / "rejects.jsonl").read_text().splitlines()]
    assert lines == list(range(5, 5 + num_bad))


def test_warnings_that_leave_no_row_out_do_not_hide_the_report(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image(tmp_path / "large.png")
    rows = [image_record("large.png", label=i % 2 == 0, id=i) for i in range(20)]
    assert run(write_jsonl(tmp_path / "train.jsonl", rows), "--image-max-pixels", "100") == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("KTO210" in line and ".jsonl:" in line for line in said) == 3
    assert "… and 17 more of KTO210" in said

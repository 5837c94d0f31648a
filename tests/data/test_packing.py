"""Packed images: each once, whole or not at all, and nobody else's file touched."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyModel, make_image, write_jsonl
from forked import started
from test_preprocess import files_of, image_record, rejects_of, rows_of, text_record

from kto_data import packing as module
from kto_data.cli import main
from kto_data.digest import MIX
from kto_data.image import from_pixels, load_for_training
from kto_data.manifest import PackedCounts, read_manifest
from kto_data.packing import AllPacked, Packed

Run = Callable[..., int]
BUDGET = ["--image-max-pixels", "1200"]
SCALED = ["--pack-images", "resized", *BUDGET]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six rows: a large image under two names, a turned one, a small one, and one row without."""
    make_image(tmp_path / "wide.png", 120, 40, noise_seed=1)
    shutil.copy(tmp_path / "wide.png", tmp_path / "again.png")
    make_image(tmp_path / "turned.jpg", 90, 30, noise_seed=2, orientation=6)
    make_image(tmp_path / "small.png", 30, 20, noise_seed=3)
    names = ["wide.png", "again.png", "turned.jpg", "small.png", "wide.png"]
    rows = [image_record(name, label=i % 2 == 0) for i, name in enumerate(names)]
    return write_jsonl(tmp_path / "train.jsonl", [*rows, text_record("none")])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def run(tiny_model: TinyModel, data: Path, cache: Path) -> Run:
    """Runs the command on the data in shards of two rows, in this process."""
    fixed = [str(data), "--model", str(tiny_model("llava_next")), "--shard-rows", "2", "--jobs", "1"]

    def run(*options: str, output: Path = cache) -> int:
        return main(["preprocess", *fixed, "--output", str(output), *options])

    return run


def images_of(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / "images").rglob("*")) if path.is_file()}


def shards_of(cache: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(cache).items() if name.endswith(".arrow")}


def test_originals_are_copied_once_by_their_hash(
    run: Run, data: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--pack-images", "original") == 0
    by_hash = {image["sha256"]: image["path"] for row in rows_of(cache) for image in row["images"]}
    assert images_of(cache) == {sha256: (data.parent / path).read_bytes() for sha256, path in by_hash.items()}
    total = sum(map(len, images_of(cache).values()))
    assert read_manifest(cache).packed == PackedCounts(paths=4, files=3, bytes=total)
    assert f"images: 4 files, 3 distinct, {total / 1e6:,.1f} MB in {cache}/images" in capsys.readouterr().out
    assert all(path.stat().st_nlink == 1 for path in data.parent.glob("*.png"))


def test_what_is_over_the_budget_is_kept_as_the_pixels_of_training(run: Run, data: Path, cache: Path) -> None:
    assert run(*SCALED) == 0
    images = {image["path"]: image for row in rows_of(cache) for image in row["images"]}
    for path, image in images.items():
        size = (image["width"], image["height"])
        content = images_of(cache)[f"{image['sha256']}-{size[0]}x{size[1]}"]
        if path == "small.png":
            assert content == (data.parent / path).read_bytes()
        else:
            scaled = from_pixels(content)
            assert scaled is not None
            assert (scaled.mode, scaled.size) == ("RGB", size)
            assert scaled.tobytes() == load_for_training(data.parent / path, size).tobytes()


def test_packing_changes_no_shard_and_no_fingerprint(run: Run, cache: Path) -> None:
    made = []
    for packing in ("none", "original", "resized"):
        assert run("--pack-images", packing, *BUDGET) == 0
        made.append((shards_of(cache), read_manifest(cache).fingerprint))
    assert made[0] == made[1] == made[2]


def test_packing_to_a_budget_needs_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pack-images", "resized") == 2
    assert "none is given" in capsys.readouterr().err


def test_a_cache_is_packed_later_without_its_shards_being_made_again(
    run: Run, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any order, to the bytes of a first run, with nothing of the run before left."""
    for options in (BUDGET, SCALED, ["--pack-images", "original", *BUDGET], BUDGET):
        afresh = tmp_path / f"afresh-{len(options)}-{options[1]}"
        assert run(*options, output=afresh) == 0
        capsys.readouterr()
        assert run(*options) == 0
        said = capsys.readouterr().err
        assert "3 of 3 shards were done already" in said or options is BUDGET
        assert files_of(cache) == files_of(afresh)


def test_a_second_run_finds_all_packed(run: Run, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SCALED) == 0
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.name != ".lock"}
    assert run(*SCALED) == 0
    assert "nothing has changed" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("options", [["--pack-images", "original", *BUDGET], SCALED])
def test_packed_files_that_are_missing_or_cut_are_made_again(run: Run, cache: Path, options: list[str]) -> None:
    assert run(*options) == 0
    before = files_of(cache)
    first, second, *_ = (path for path in sorted((cache / "images").rglob("*")) if path.is_file())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    assert run(*options) == 0
    assert files_of(cache) == before


def test_pixels_that_another_version_has_scaled_are_scaled_again(run: Run, cache: Path) -> None:
    assert run(*SCALED) == 0
    before = files_of(cache)
    pixels = [path for path in (cache / "images").glob("*/*") if b", Pillow " in path.read_bytes()[:200]]
    assert len(pixels) == 2
    for path in pixels:
        path.write_bytes(path.read_bytes().replace(b"ktodata 0", b"ktodata 9", 1))
    assert run(*SCALED) == 0
    assert files_of(cache) == before


def test_the_number_of_jobs_changes_no_byte(data: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    names = ["wide.png", "again.png", "turned.jpg", "small.png"]
    rows = [image_record(names[i % 4], label=i % 3 == 0) for i in range(40)]
    write_jsonl(data, [*rows, *(text_record(f"no. {i}", label=i % 2 == 0) for i in range(10))])
    command = ["preprocess", str(data), "--model", str(tiny_model("llava_next")), "--shard-rows", "2", "--quiet"]
    parted = ["--eval-fraction", "0.4", "--contradictions", "majority", *SCALED]
    for jobs in ("1", "2", "4"):
        process = started([*command, *parted, "--jobs", jobs, "--output", str(tmp_path / jobs)])
        process.join()
        assert process.exitcode == 0
    assert set(read_manifest(tmp_path / "1").splits) == {"train", "eval"}
    assert images_of(tmp_path / "1")
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "4")


def test_what_killed_runs_left_is_neither_taken_for_whole_nor_kept(run: Run, cache: Path, tmp_path: Path) -> None:
    assert run(*SCALED, output=tmp_path / "afresh") == 0
    wanted = next(iter(images_of(tmp_path / "afresh")))
    foreign = "0f" * 32
    for folder in (cache / ".building" / "images", cache / "images"):
        for name in (foreign, wanted):
            (folder / name[:2]).mkdir(parents=True)
            (folder / name[:2] / f".{name}.77.tmp").write_bytes(b"half a file")
        (folder / foreign[:2] / foreign).write_bytes(b"of other data")
        (folder / wanted[:2] / wanted).write_bytes(b"of a machine that lost its power")
    assert run(*SCALED) == 0
    assert files_of(cache) == files_of(tmp_path / "afresh")


def test_a_folder_of_somebodys_images_is_no_output(run: Run, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = make_image(cache / "images" / "ab" / "photo.png")
    (cache / "images" / "list.txt").write_text("mine")
    assert run("--pack-images", "original") == 2
    assert "holds no cache (for one, 'images')" in capsys.readouterr().err
    assert photo.exists()


def test_what_somebody_put_beside_the_packed_images_stays(run: Run, cache: Path) -> None:
    assert run("--pack-images", "original") == 0
    note = cache / "images" / "00" / "note.txt"
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    assert run() == 0
    assert [path for path in (cache / "images").rglob("*") if path.is_file()] == [note]


def test_an_image_whose_pixels_cannot_be_scaled_is_a_finding(run: Run, data: Path, cache: Path) -> None:
    path = data.parent / "wide.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[-12:])
    assert run(*BUDGET) == 0  # its header is sound, and no pixel is looked at
    assert run(*SCALED) == 1
    assert run(*SCALED, "--invalid", "drop") == 0
    assert [(reject["line"], reject["rules"]) for reject in rejects_of(cache)] == [(1, ["KTO204"]), (5, ["KTO204"])]
    assert read_manifest(cache).packed == PackedCounts(paths=3, files=3, bytes=sum(map(len, images_of(cache).values())))


def test_a_disk_that_fills_while_images_are_packed_leaves_the_earlier_cache(
    run: Run, tiny_model: TinyModel, data: Path, cache: Path
) -> None:
    make_image(data.parent / "wide.png", 400, 300, noise_seed=4)
    assert run() == 0
    before = files_of(cache)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    options = ["--shard-rows", "2", "--jobs", "1", "--pack-images", "original", "--output", str(cache)]
    done = subprocess.run(
        [sys.executable, "-m", "kto_data", "preprocess", str(data), "--model", str(tiny_model("llava_next")), *options],
        preexec_fn=small_files_only,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},  # measuring writes too
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "/images/" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(cache) == before


def test_the_manifest_says_how_images_are_packed(run: Run, cache: Path) -> None:
    assert run(*SCALED) == 0
    manifest = json.loads((cache / "manifest.json").read_bytes())
    assert manifest["pack_images"] == "resized"
    assert "pack_images" not in manifest["parts"]


def test_images_by_the_hundred_thousand_are_counted_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("column.MOST_BYTES", "column._BLOCK_BYTES", "blockwise._BLOCK"):
        monkeypatch.setattr(f"kto_data.{where}", 1 << 12)
    num_shards, num_images = 100, 1_000
    tracemalloc.start()
    packed = AllPacked()
    for number in range(num_shards):  # a third of them in the shard before too, by another name
        images = np.arange(num_images, dtype=np.uint64) + np.uint64(number * num_images * 2 // 3)
        entries = np.zeros(num_images, module._ENTRY)
        entries["name"], entries["bytes"] = images * np.uint64(MIX), images
        entries["path"] = images + np.uint64(number % 2)
        packed.add(Packed(entries))
    last = int(images[-1])
    counts = packed.counts()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts == PackedCounts(paths=last + 2, files=last + 1, bytes=sum(range(last + 1)))
    assert most / (num_shards * num_images) < 8


def test_of_paths_those_are_known_that_are_packed() -> None:
    names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
    paths = [f"{name[:2]}/{name}" for name in names]
    assert AllPacked().among(paths) == set()
    packed = AllPacked()
    packed.add(Packed(np.array([(1, module._key(name), 10) for name in names[:2]], module._ENTRY)))
    assert packed.among([*paths, f"{names[0][:2]}/notes.txt", "notes.txt"]) == set(paths[:2])

"""Data, images and caches on object storage, against a real S3 server on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars
import pytest
from conftest import TinyModel, make_record, write_jsonl
from datasets import load_from_disk
from object_store import BUCKET, Store, objects
from torch.utils.data import DataLoader

from kto_data import remote_image, storage
from kto_data.chunk import Chunk
from kto_data.cli import main
from kto_data.errors import CacheError, InputError
from kto_data.image import ImageCheck, ProbeStatus, probe
from kto_data.opening import open_source
from kto_train import load_cache
from kto_train.images import ImageFiles

pytest_plugins = ("store_fixtures",)


def files_of(folder: Path) -> dict[str, bytes]:
    """What of a cache is the same in each run: all but what is left for the next run, and the record of this one."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith((".", "run.json"))}


def test_images_at_a_url_give_the_cache_that_they_give_from_a_folder(
    s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int]
) -> None:
    s3.put(str(data.parent / "images"), "bucket/photos/images", recursive=True)
    options = ["--pack-images", "original", "--eval-fraction", "0.3"]
    assert preprocess(data, tmp_path / "near", *options) == 0
    assert preprocess(data, tmp_path / "far", *options, "--image-root", f"{BUCKET}/photos") == 0
    near, far = files_of(tmp_path / "near"), files_of(tmp_path / "far")
    manifests = [json.loads(files.pop("manifest.json")) for files in (near, far)]
    assert manifests[1].pop("image_root") == f"{BUCKET}/photos"
    assert manifests[0].pop("image_root") == "../data"
    assert manifests[0] == manifests[1]
    assert near == far


def test_data_at_a_url_is_read_as_from_disk(
    s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data.read_bytes().splitlines()
    rows.insert(3, rows[0].replace(b"images/0.png", b"images/gone.png"))
    data.write_bytes(b"\n".join(rows) + b"\n")
    s3.put(str(data.parent), "bucket/data", recursive=True)
    there = f"{BUCKET}/data/train.jsonl"

    told = []
    for path in (str(data), there):
        assert main(["validate", path, "--output-format", "json", "--jobs", "1", "--extend-select", "KTO603"]) == 1
        report = json.loads(capsys.readouterr().out.replace(str(data.parent), f"{BUCKET}/data"))
        told.append({name: report[name] for name in ("findings", "rules", "stats")})
    assert {finding["code"] for finding in told[0]["findings"]} == {"KTO201", "KTO603"}
    assert told[0] == told[1]

    assert preprocess(data, tmp_path / "near", "--invalid", "drop") == 0
    assert preprocess(there, tmp_path / "far", "--invalid", "drop") == 0
    near, far = (list(load_from_disk(str(tmp_path / name))["train"]) for name in ("near", "far"))
    for row in far:
        row["source"]["file"] = row["source"]["file"].replace(there, str(data))
    assert near == far


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_whose_copy_is_on_another_machine_are_read_where_it_was_copied_from(
    s3: Any, data: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"rows.{kind}"
    rows = [json.loads(line) for line in data.read_bytes().splitlines()]
    if kind == "parquet":
        polars.DataFrame(rows).write_parquet(file)
    else:
        file.write_bytes(json.dumps(rows).encode() if kind == "json" else data.read_bytes())

    def chunks(name: str) -> tuple[list[Chunk], list[Chunk]]:
        """As they are here, and as another machine gets them."""
        s3.put(str(file), f"bucket/{name}.{kind}")
        here = list(open_source(f"{BUCKET}/{name}.{kind}").chunks(5))
        return here, [replace(chunk, local=str(tmp_path / "gone")) for chunk in here]

    here, there = chunks("rows")
    assert [list(chunk.lines()) for chunk in there] == [list(chunk.lines()) for chunk in here]
    assert [list(chunk.blocks()) for chunk in there] == [list(chunk.blocks()) for chunk in here]
    _, there = chunks("changed")
    s3.pipe(f"bucket/changed.{kind}", file.read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"changed while it was read|not any more what it was"):
        list(there[0].lines())


def test_a_cache_at_a_url_is_the_one_on_disk_and_is_sent_once(
    s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int]
) -> None:
    options = ["--pack-images", "resized", "--image-max-pixels", "2000"]
    assert preprocess(data, tmp_path / "here", *options) == 0
    assert preprocess(data, f"{BUCKET}/cache", *options) == 0
    here, there = files_of(tmp_path / "here"), objects(s3, "cache")
    manifests = [json.loads(files.pop("manifest.json")) for files in (here, there)]
    for manifest in manifests:
        assert os.path.realpath(tmp_path / "here" / manifest.pop("image_root")) == str(data.parent)
        del manifest["model"]
    assert manifests[0] == manifests[1]
    assert there == here

    before = s3.find("bucket/cache", detail=True)
    assert preprocess(data, f"{BUCKET}/cache", *options) == 0
    assert s3.find("bucket/cache", detail=True) == before

    s3.pipe("bucket/cache/train/shard-00000.arrow", b"changed")
    s3.rm("bucket/cache/report.md")
    assert preprocess(data, f"{BUCKET}/cache", *options) == 0
    assert objects(s3, "cache").keys() == {*here, "manifest.json"}
    assert {name: content for name, content in objects(s3, "cache").items() if name in here} == here


def test_a_cache_at_a_url_is_trained_on_from_one_copy(
    s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int], tiny_model: TinyModel
) -> None:
    assert preprocess(data, f"{BUCKET}/cache", "--pack-images", "original") == 0
    shutil.rmtree(data.parent)
    model, output = str(tiny_model("llava_next")), tmp_path / "run"
    command = ["train", "--cache", f"{BUCKET}/cache", "--model", model, "--output", str(output), "--max-steps", "1"]
    assert main([*command, "--batch-size", "2", "--set", "kto.dataloader_num_workers=2"]) == 0
    assert (output / "model.safetensors").exists()
    assert json.loads((output / "run.json").read_bytes())["status"] == "finished"
    (copy,) = (tmp_path / "home/ktodata/caches").iterdir()
    s3.rm("bucket/cache/train", recursive=True)
    assert load_cache(f"{BUCKET}/cache").path == copy  # nothing else is fetched for it


@pytest.mark.parametrize("packing", ["none", "original"])
def test_a_cache_at_a_url_is_shown_as_the_one_on_disk(
    s3: Any,
    data: Path,
    tmp_path: Path,
    preprocess: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    packing: str,
) -> None:
    cache = f"{BUCKET}/shown-{packing}"  # a process copies what is at a URL once
    s3.put(str(data.parent), "bucket/photos", recursive=True)
    options = ["--image-root", f"{BUCKET}/photos", "--pack-images", packing]
    assert preprocess(data, tmp_path / "here", *options) == 0
    assert preprocess(data, cache, *options) == 0
    if packing == "original":
        s3.rm("bucket/photos", recursive=True)
    capsys.readouterr()

    def shown(*command: str) -> list[str]:
        told = []
        for place in (str(tmp_path / "here"), cache):
            assert main([command[0], place, *command[1:]]) == 0
            told.append(capsys.readouterr().out)
        return told

    here, there = shown("stats")
    assert here == there
    assert "desirable" in here
    here, there = shown("inspect", "--row", "1", "--row", "9")
    assert here == there
    assert "Shape 1." in here

    page = tmp_path / "rows.html"
    pages = []
    for place in (str(tmp_path / "here"), cache):
        assert main(["inspect", place, "--head", "12", "--html", str(page)]) == 0
        pages.append(page.read_text().replace(place, "CACHE"))
    assert pages[0] == pages[1]
    assert pages[0].count("data:image/jpeg") > 3


def test_a_cache_at_a_url_with_another_shard_is_not_shown(
    s3: Any, data: Path, preprocess: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(data, f"{BUCKET}/changed") == 0
    s3.copy("bucket/changed/train/shard-00001.arrow", "bucket/changed/train/shard-00000.arrow")
    s3.rm("bucket/changed/train/shard-00001.arrow")
    assert main(["inspect", f"{BUCKET}/changed"]) == 2
    assert "shard-00000.arrow is not the file that the manifest says" in capsys.readouterr().err
    assert main(["inspect", f"{BUCKET}/changed", "--row", "5"]) == 2
    assert "cannot read s3://bucket/changed/train/shard-00001.arrow" in capsys.readouterr().err
    s3.rm("bucket/changed/report.json")
    assert main(["stats", f"{BUCKET}/changed"]) == 2
    assert "cannot read s3://bucket/changed/report.json" in capsys.readouterr().err


def test_images_are_read_from_a_url_by_forked_loaders(
    s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int], tiny_model: TinyModel
) -> None:
    s3.put(str(data.parent), "bucket/photos", recursive=True)
    assert preprocess(f"{BUCKET}/photos/train.jsonl", f"{BUCKET}/photos/cache") == 0
    cache = load_cache(f"{BUCKET}/photos/cache")
    assert cache.image_root == f"{BUCKET}/photos"
    images = ImageFiles(cache.image_root)
    refs = [ref for row in cache["train"] for ref in row["image_refs"]]
    sizes = DataLoader(refs, batch_size=None, num_workers=2, collate_fn=lambda ref: images.load(ref).size)
    assert list(sizes) == [(ref["width"], ref["height"]) for ref in refs]


def test_a_killed_upload_is_no_cache_and_the_next_run_goes_on(
    store: Store, s3: Any, data: Path, preprocess: Callable[..., int], fixed_options: list[str]
) -> None:
    command = [
        sys.executable,
        "-m",
        "kto_data",
        "preprocess",
        str(data),
        "--output",
        f"{BUCKET}/killed",
        *fixed_options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sent: list[str] = []

    def kill(method: str, path: str) -> Literal["", "cut"]:
        if method == "PUT" and path.startswith("/bucket/killed/"):
            sent.append(path)
        if len(sent) < 4:
            return ""
        process.send_signal(signal.SIGKILL)
        return "cut"

    store.spoil = kill
    assert process.wait() == -signal.SIGKILL
    store.spoil = lambda method, path: ""
    there = objects(s3, "killed")
    assert "manifest.json" not in there
    with pytest.raises(CacheError, match="is not a cache"):
        load_cache(f"{BUCKET}/killed")

    assert preprocess(data, f"{BUCKET}/killed") == 0
    assert preprocess(data, f"{BUCKET}/whole") == 0
    assert objects(s3, "killed") == objects(s3, "whole")


def test_a_server_that_goes_away_is_told_and_what_was_sent_is_not_sent_again(
    store: Store,
    s3: Any,
    data: Path,
    tmp_path: Path,
    preprocess: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def go_away(method: str, path: str) -> Literal["", "cut"]:
        some_arrived = any(tmp_path.glob("home/ktodata/outputs/*/sent"))
        if method != "PUT" or not some_arrived:
            return ""
        store.stop()
        return "cut"

    store.spoil = go_away
    assert preprocess(data, f"{BUCKET}/cache") == 2
    told = capsys.readouterr().err
    assert f"cannot write to {BUCKET}/cache" in told
    assert "run the same command again" in told
    (notes,) = tmp_path.glob("home/ktodata/outputs/*/sent")
    arrived = {json.loads(line)[0] for line in notes.read_text().splitlines()}

    sent: list[str] = []
    store.spoil = lambda method, path: sent.append(path) or "" if method == "PUT" else ""  # type: ignore[func-returns-value]
    store.start()
    assert preprocess(data, f"{BUCKET}/cache") == 0
    names = {path.removeprefix("/bucket/cache/") for path in sent}
    assert "manifest.json" in names
    assert arrived
    assert not arrived & names
    assert load_cache(f"{BUCKET}/cache").manifest.splits["train"].counts.kept == 12


def test_a_busy_server_is_asked_again(store: Store, s3: Any, data: Path, preprocess: Callable[..., int]) -> None:
    s3.put(str(data.parent), "bucket/busy", recursive=True)
    asked: Counter[tuple[str, str]] = Counter()

    def busy(method: str, path: str) -> Literal["", "busy"]:
        asked[method, path] += 1
        return "busy" if asked[method, path] == 1 and method != "HEAD" else ""

    store.spoil = busy
    assert preprocess(f"{BUCKET}/busy/train.jsonl", f"{BUCKET}/cache") == 0
    assert load_cache(f"{BUCKET}/cache").manifest.splits["train"].counts.kept == 12


@pytest.mark.parametrize("options", [(), ("--eval-fraction", "0.3")], ids=["one split", "two"])
@pytest.mark.parametrize("good", [0, 1, 2])
def test_an_image_that_a_store_does_not_give_stops_the_run_and_no_row_is_dropped_for_it(
    store: Store,
    s3: Any,
    data: Path,
    preprocess: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    good: int,
) -> None:
    """Whenever it begins to fail: when its header is read, all of it, or for another pass."""
    s3.put(str(data.parent / "images"), "bucket/photos/images", recursive=True)
    options = (*options, "--image-root", f"{BUCKET}/photos", "--invalid", "drop", "--contradictions", "keep")
    asked: Counter[str] = Counter()

    def busy(method: str, path: str) -> Literal["", "busy"]:
        asked[path] += method == "GET"
        return "busy" if path.endswith("/images/3.png") and asked[path] > good else ""

    store.spoil = busy
    code = preprocess(data, f"{BUCKET}/cache", *options)
    told = capsys.readouterr().err
    store.spoil = lambda method, path: ""
    if asked["/bucket/photos/images/3.png"] > good:
        assert code == 2, told
        assert "3.png" in told
        assert "run the same command again" in told
        assert not s3.exists("bucket/cache/manifest.json")
    assert preprocess(data, f"{BUCKET}/cache", *options) == 0
    assert preprocess(data, f"{BUCKET}/whole", *options) == 0
    assert objects(s3, "cache") == objects(s3, "whole")
    assert load_cache(f"{BUCKET}/cache").manifest.splits["train"].counts.dropped == {}


def test_of_a_folder_at_a_url_the_files_are_read_that_are_read_on_disk_in_the_same_order(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("b.jsonl", "a-1.jsonl", "a.jsonl", "a/x.jsonl", "a/c/z.jsonl", ".hidden.jsonl", ".dir/y.jsonl")
    for name in names:
        write_jsonl(tmp_path / "data" / name, [make_record(id=name)])
    s3.put(str(tmp_path / "data"), "bucket/folder", recursive=True)
    read = []
    for folder in (str(tmp_path / "data"), f"{BUCKET}/folder"):
        assert main(["convert", folder, "--output", str(tmp_path / "out.jsonl")]) == 0
        read.append([json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()])
    assert read[0] == read[1]
    assert len(read[0]) == 5


@pytest.mark.parametrize("path", ["images//1.png", "images/./1.png", "./images/1.png", "images/../images/1.png"])
def test_an_image_is_found_at_a_url_however_its_path_is_written(s3: Any, data: Path, path: str) -> None:
    s3.put(str(data.parent / "images"), "bucket/photos/images", recursive=True)
    assert remote_image.probe(path, f"{BUCKET}/photos", ImageCheck.HEADER).status is ProbeStatus.OK
    assert probe(path, data.parent.resolve(), ImageCheck.HEADER).status is ProbeStatus.OK


def test_of_two_writers_one_wins(
    s3: Any, data: Path, preprocess: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    won: list[bytes] = []

    def create(content: bytes) -> None:
        try:
            storage.create(f"{BUCKET}/marker", content)
            won.append(content)
        except FileExistsError:
            pass

    storage.at_once(create, [b"%d" % i for i in range(8)])
    assert [s3.cat_file("bucket/marker")] == won

    s3.pipe("bucket/cache/.writing", b"another machine")
    assert preprocess(data, f"{BUCKET}/cache") == 2
    assert f"another run is writing {BUCKET}/cache: another machine" in capsys.readouterr().err
    assert list(objects(s3, "cache")) == [".writing"]


def test_what_is_no_cache_is_neither_trained_on_nor_written_over(
    s3: Any, data: Path, preprocess: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    s3.pipe("bucket/mine/notes.txt", b"mine")
    assert preprocess(data, f"{BUCKET}/mine") == 2
    assert "is not empty and holds no cache" in capsys.readouterr().err
    assert objects(s3, "mine") == {"notes.txt": b"mine"}

    assert preprocess(data, f"{BUCKET}/cache") == 0
    shard = s3.cat_file("bucket/cache/train/shard-00001.arrow")
    s3.pipe("bucket/cache/train/shard-00001.arrow", shard[:-1] + b"!")
    with pytest.raises(CacheError, match=r"shard-00001\.arrow is not the file that the manifest says"):
        load_cache(f"{BUCKET}/cache")

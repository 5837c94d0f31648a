"""Object storage that is slow, cut off or asked by several at once: bytes and findings are those of a quiet day."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from conftest import make_image, make_record, write_jsonl
from object_store import BUCKET, Fault, Store, objects
from s3fs import S3FileSystem

from kto_data import filesystem, local_copy, storage
from kto_data.cli import main

pytest_plugins = ("store_fixtures",)

OPTIONS = ["--pack-images", "original", "--eval-fraction", "0.3"]


@pytest.fixture(autouse=True)
def _fetched_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "_named", {})


@pytest.fixture
def impatient(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has this process, which forgets what it has fetched, wait for an answer one second, and ask so many times."""

    def impatient(attempts: int) -> None:
        monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 1}})
        monkeypatch.setattr(S3FileSystem, "retries", attempts)
        monkeypatch.setattr(local_copy, "_named", {})

    return impatient


def findings(path: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["validate", path, "--output-format", "json", "--jobs", "1"]) == 1
    return json.loads(capsys.readouterr().out)["findings"]


def test_answers_that_come_late_change_no_byte_and_no_finding(
    store: Store,
    s3: Any,
    data: Path,
    preprocess: Callable[..., int],
    impatient: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether the work is done at once and told late, or done late, when it was asked for again."""
    rows = data.read_bytes().splitlines(keepends=True)
    data.write_bytes(b"".join([*rows, rows[0].replace(b"images/0.png", b"images/gone.png")]))
    s3.put(str(data.parent), "bucket/data", recursive=True)
    there, options = f"{BUCKET}/data/train.jsonl", [*OPTIONS, "--invalid", "drop"]
    told = findings(there, capsys)
    assert preprocess(there, f"{BUCKET}/quiet", *options) == 0

    asked: Counter[tuple[str, str]] = Counter()
    kinds: Iterator[Fault] = itertools.cycle(["late", "", "", "", "too late", "", "", ""])

    def late(method: str, path: str) -> Fault:
        asked[method, path] += 1
        decides = method == "PUT" and path.endswith((".writing", "manifest.json"))  # is there once, or not at all
        return "" if asked[method, path] > 1 else next(kinds) or ("late" if decides else "")

    impatient(5)
    store.spoil = late
    assert findings(there, capsys) == told != []
    asked.clear()
    assert preprocess(there, f"{BUCKET}/cache", *options) == 0
    store.spoil = lambda method, path: ""
    assert {("PUT", f"/bucket/cache/{name}") for name in ("manifest.json", "train/shard-00000.arrow")} <= asked.keys()
    assert objects(s3, "cache") == objects(s3, "quiet")


def test_a_store_that_is_too_slow_is_told_in_a_line_and_the_next_run_goes_on(
    store: Store,
    s3: Any,
    data: Path,
    preprocess: Callable[..., int],
    impatient: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What comes from a sound image too late is no sign of a damaged one."""
    s3.put(str(data.parent), "bucket/data", recursive=True)
    there = f"{BUCKET}/data/train.jsonl"
    assert preprocess(there, f"{BUCKET}/quiet", *OPTIONS) == 0
    impatient(3)
    capsys.readouterr()

    def run(asked: str) -> int:
        slow, end = asked.split()
        store.spoil = lambda method, path: "too late" if method == slow and path.endswith(end) else ""
        code = preprocess(there, f"{BUCKET}/cache", *OPTIONS, "--invalid", "drop")
        store.spoil = lambda method, path: ""
        return code

    for asked in ("GET images/1.png", "PUT shard-00001.arrow", "PUT manifest.json"):
        assert run(asked) == 2
        problem, hint = capsys.readouterr().err.splitlines()
        assert "Read timeout on endpoint URL" in problem
        assert "run the same command again" in hint
    assert preprocess(there, f"{BUCKET}/cache", *OPTIONS) == 0
    assert objects(s3, "cache") == objects(s3, "quiet")


def ktodata(code: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """What came of Python code in a process of its own, on a machine where others have left nothing but `home`."""
    env = os.environ | {"XDG_CACHE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


COMMAND = "import sys; from kto_data.cli import main; sys.exit(main(sys.argv[1:]))"


def test_of_two_processes_that_write_to_a_place_at_the_same_moment_one_makes_the_cache(
    store: Store,
    s3: Any,
    data: Path,
    tmp_path: Path,
    preprocess: Callable[..., int],
    fixed_options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """This one, and one that is started; neither sees what the other has on its machine."""
    assert preprocess(data, f"{BUCKET}/quiet", *OPTIONS) == 0
    both, one_ended = threading.Barrier(2, timeout=600), threading.Event()

    def meet(method: str, path: str) -> Fault:
        """Both find the place free, and claim it together; the one that gets it goes on when the other has ended."""
        if (method, path) == ("PUT", "/bucket/cache/.writing"):
            both.wait()
        elif method == "PUT" and path.startswith("/bucket/cache/"):
            assert one_ended.wait(600)
        return ""

    store.spoil = meet
    command = ["preprocess", str(data), "--output", f"{BUCKET}/cache", *fixed_options, *OPTIONS]
    capsys.readouterr()
    with ThreadPoolExecutor() as pool:
        started = pool.submit(ktodata, COMMAND, *command, home=tmp_path / "other")
        started.add_done_callback(lambda _: one_ended.set())
        code = preprocess(data, f"{BUCKET}/cache", *OPTIONS)
        one_ended.set()
    other = started.result()
    assert sorted([code, other.returncode]) == [0, 2]
    has_won, said = (tmp_path / "home", other.stderr) if code == 0 else (tmp_path / "other", capsys.readouterr().err)
    problem, hint = said.splitlines()[-2:]
    assert f"another run is writing {BUCKET}/cache: " in problem
    assert f"in {has_won}/" in problem
    assert "wait for it to end" in hint
    assert objects(s3, "cache") == objects(s3, "quiet")


def test_a_claim_that_goes_while_it_is_read_was_another_runs_all_the_same(store: Store, s3: Any) -> None:
    s3.pipe("bucket/cache/.writing", b"another machine")

    def go(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith(".writing"):
            s3.rm("bucket/cache/.writing")
        return ""

    store.spoil = go
    with pytest.raises(FileExistsError):
        storage.create(f"{BUCKET}/cache/.writing", b"mine")


def test_a_claim_that_was_taken_over_is_left_to_the_run_that_holds_it(
    store: Store, s3: Any, data: Path, preprocess: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody took a run for dead and removed its claim: the run that came then is not harmed by the end of the first,
    and of their manifests one is there."""

    def take_over(method: str, path: str) -> Fault:
        if method == "PUT" and path.endswith("report.html"):
            s3.pipe("bucket/cache/.writing", b"the second")
            s3.pipe("bucket/cache/manifest.json", b"of the second")
        return ""

    store.spoil = take_over
    assert preprocess(data, f"{BUCKET}/cache") == 2
    assert f"another run has published {BUCKET}/cache meanwhile" in capsys.readouterr().err
    assert s3.cat_file("bucket/cache/.writing") == b"the second"
    assert s3.cat_file("bucket/cache/manifest.json") == b"of the second"


IN_SMALL_PARTS = f"from kto_data import filesystem; filesystem._PART_BYTES = 2048; {COMMAND}"


def test_of_a_file_that_was_cut_off_between_its_parts_nothing_stays(
    store: Store,
    s3: Any,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preprocess: Callable[..., int],
    fixed_options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether the process is killed or the connection is cut; of uploads elsewhere in the bucket nothing is touched."""
    assert preprocess(data, f"{BUCKET}/quiet") == 0
    somebodys = {f"cache{end}" for end in ("", "-2/train/shard-00000.arrow")}
    for key in somebodys:
        s3.call_s3("create_multipart_upload", Bucket="bucket", Key=key)
    shard, parts = "/bucket/cache/train/shard-00001.arrow", []

    def cut(method: str, path: str) -> Fault:
        """All parts of a file but the first."""
        parts.extend([path] * ((method, path) == ("PUT", shard)))
        if len(parts) < 2 or path != shard:
            return ""
        for process in psutil.Process().children():
            process.kill()
        return "cut" if method == "PUT" else ""

    store.spoil = cut
    command = ["preprocess", str(data), "--output", f"{BUCKET}/cache", *fixed_options]
    assert ktodata(IN_SMALL_PARTS, *command, home=tmp_path / "home").returncode == -signal.SIGKILL
    assert unfinished(s3) >= {*somebodys, shard.removeprefix("/bucket/")}
    assert not {"manifest.json", "train/shard-00001.arrow"} & objects(s3, "cache").keys()

    parts.clear()
    monkeypatch.setattr(filesystem, "_PART_BYTES", 2048)
    monkeypatch.setattr(S3FileSystem, "retries", 2)
    assert preprocess(data, f"{BUCKET}/cache") == 2
    assert f"cannot write to {BUCKET}/cache" in capsys.readouterr().err
    assert len(parts) > 2
    assert unfinished(s3) == somebodys

    store.spoil = lambda method, path: ""
    assert preprocess(data, f"{BUCKET}/cache") == 0
    assert "-" in s3.info("bucket/cache/train/shard-00001.arrow")["ETag"], "it came in parts"
    assert objects(s3, "cache") == objects(s3, "quiet")
    assert unfinished(s3) == somebodys


def unfinished(s3: Any) -> set[str]:
    return {upload["Key"] for upload in s3.list_multipart_uploads("bucket")}


FETCH = "import sys; from kto_data.download import fetch_cache; print(fetch_cache(sys.argv[1]))"


@pytest.mark.parametrize("is_killed", [False, True], ids=["both live", "one is killed"])
def test_processes_of_a_machine_that_want_a_cache_from_a_url_copy_it_once(
    store: Store, s3: Any, data: Path, tmp_path: Path, preprocess: Callable[..., int], is_killed: bool
) -> None:
    cache, home = f"{BUCKET}/cache", tmp_path / "node"
    assert preprocess(data, cache, "--pack-images", "original") == 0
    asked: Counter[str] = Counter()
    has_begun, has_come, whole = threading.Event(), threading.Event(), set[str]()

    def hold(method: str, path: str) -> Fault:
        """The last shard comes when the second process is there, and if one is to be killed, not at all."""
        asked[path.removeprefix("/bucket/cache/")] += method == "GET"
        if asked["manifest.json"] == 2:
            has_come.set()
        if not path.endswith("shard-00002.arrow") or method != "GET" or has_begun.is_set():
            return ""
        has_begun.set()
        assert has_come.wait(600)
        if not is_killed:
            return ""
        first.kill()
        whole.update(f"train/{path.name}" for path in home.glob("ktodata/caches/*/train/shard-*.arrow"))
        return "cut"

    store.spoil = hold
    env = os.environ | {"XDG_CACHE_HOME": str(home)}
    with subprocess.Popen([sys.executable, "-c", FETCH, cache], env=env, stdout=subprocess.PIPE, text=True) as first:
        assert has_begun.wait(600)
        second = ktodata(FETCH, cache, home=home)
        said, _ = first.communicate()
    assert (first.returncode, second.returncode) == (-signal.SIGKILL if is_killed else 0, 0)
    twice = {name for name, times in asked.items() if times > 1}
    (copy,) = home.glob("ktodata/caches/*")
    assert second.stdout.strip() == str(copy)
    assert said.strip() == ("" if is_killed else str(copy))
    there, here = objects(s3, "cache"), {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    wanted = {name: content for name, content in there.items() if name.startswith(("train/shard", "images/", "manif"))}
    assert {name: here[copy / name] for name in wanted} == wanted
    assert not list(copy.rglob("*.part"))
    assert twice & wanted.keys() <= (wanted.keys() - whole if is_killed else {"manifest.json"})


def test_of_images_at_a_url_only_headers_are_read_many_at_a_time(
    store: Store, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = make_image(tmp_path / "large.png", 640, 480, noise_seed=1)
    names = [f"{i:02}.png" for i in range(40)]
    for name in names:
        s3.put_file(str(image), f"bucket/photos/{name}")
    asks = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Noise."}]
    rows = [make_record(messages=asks, images=[name], label=i % 2 == 0, id=i) for i, name in enumerate(names)]
    data = write_jsonl(tmp_path / "train.jsonl", rows)

    full = threading.Barrier(storage.REQUESTS_AT_ONCE, timeout=120)
    gets = itertools.count()

    def wait_for_others(method: str, path: str) -> Fault:
        if method == "GET" and next(gets) < storage.REQUESTS_AT_ONCE:
            full.wait()
        return ""

    store.spoil = wait_for_others
    store.requests.clear()
    store.most_at_once = 0
    command = ["validate", str(data), "--image-root", f"{BUCKET}/photos", "--jobs", "1", "--output-format", "json"]
    assert main(command) == 0, capsys.readouterr()
    assert not full.broken
    assert store.most_at_once == storage.REQUESTS_AT_ONCE
    read = [request for request in store.requests if request.method == "GET"]
    assert {request.path for request in read} == {f"/bucket/photos/{name}" for name in names}
    assert all(request.range for request in read)
    for name in names:
        parts = [request.num_bytes for request in read if request.path.endswith(name)]
        assert len(parts) <= 3
        assert sum(parts) < 200_000 < image.stat().st_size / 4

"""The Ray engine: what it gives is what the local engine gives, whoever is killed meanwhile.

The cluster is a real one of two nodes with a processor each, both of them on this machine.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from conftest import TinyModel, make_image, make_record, write_jsonl
from deadly import NOWHERE, ChangedEngine, Deadly, DeadlyEngine, DistantEngine, KilledLate, Stranded
from object_store import Fault, Store
from ray.cluster_utils import Cluster
from test_preprocess import files_of

from kto_data import preprocess as preprocessing
from kto_data.allot import AllotSettings
from kto_data.build import BuildSettings
from kto_data.check import CheckSettings
from kto_data.cli import main
from kto_data.engine import local
from kto_data.engine import ray as engine
from kto_data.engine.contract import Engine, Opened, Work
from kto_data.errors import InputError, UsageError
from kto_data.finding import Finding
from kto_data.image import PixelBudget
from kto_data.inputs import open_inputs
from kto_data.policy import Contradictions, Invalid
from kto_data.startup import less_garbage_collection
from kto_data.upload import work_folder
from kto_data.validate import validate
from kto_train import load_cache

KTODATA = [sys.executable, "-m", "kto_data"]
SHARDS = ["--shard-rows", "8"]


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Where all that Ray writes goes: a short path, since sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="kto-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An object store, to which the environment leads: of this process, and of the nodes that are started later."""
    store = Store()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store
    store.stop()


@pytest.fixture(scope="module")
def cluster(ray_folder: Path, store: Store) -> Iterator[Cluster]:
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(ray_folder))  # of the nodes' processes
        cluster = Cluster(initialize_head=True, head_node_args={**node, **head})
        cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def sessions(cluster: Cluster) -> Iterator[Callable[[], Opened]]:
    """Joins the cluster, or is in it still: the processes of one session serve many tests."""
    with ExitStack() as stack:
        joined: list[Opened] = []

        def join() -> Opened:
            if not ray.is_initialized():
                joined.append(stack.enter_context(engine.session(jobs=None, address=cluster.address)))
            return joined[-1]

        yield join


@pytest.fixture
def opened(sessions: Callable[[], Opened]) -> Opened:
    return sessions()


def square(unit: int) -> int:
    if unit == 13:
        raise InputError("thirteen", hint="another number")
    return unit * unit + _offset


_offset = 0


def set_offset(value: int) -> None:
    global _offset
    _offset = value


def test_units_are_worked_on_in_both_nodes_and_their_results_come_in_order(opened: Opened) -> None:
    assert opened.jobs == 2
    drawn: list[int] = []

    def units() -> Iterator[int]:
        for unit in range(20):
            drawn.append(unit)
            yield unit

    results = opened.run(Work(square, set_offset, (5,)), units(), jobs=opened.jobs)
    assert [next(results) for _ in range(3)] == [5, 6, 9]
    assert len(drawn) <= 3 + 2 * opened.jobs
    assert [next(results) for _ in range(10)] == [unit * unit + 5 for unit in range(3, 13)]
    with pytest.raises(InputError, match="thirteen") as raised:
        next(results)
    assert raised.value.hint == "another number"


def test_a_unit_whose_worker_is_killed_is_done_again_and_one_that_always_kills_is_lost(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(unit: int) -> int:
        return -unit

    deadly = Deadly(Deadly(square, "3"), "4", tmp_path / "killed")
    assert list(opened.run(Work(deadly, set_offset, (0,), if_lost=lost), range(6), jobs=2)) == [0, 1, 4, -3, 16, 25]
    assert (tmp_path / "killed").exists()
    monkeypatch.setattr(engine, "_RETRIES", 1)
    with pytest.raises(InputError, match="a worker process died"):
        list(opened.run(Work(Deadly(square, "3")), range(6), jobs=2))


def test_a_node_that_is_taken_away_costs_no_unit(cluster: Cluster, opened: Opened, tmp_path: Path) -> None:
    with doomed_node(cluster, tmp_path / "there") as node:
        work = Stranded(partial(set_offset_and_square, 0), node, tmp_path / "there")
        assert list(opened.run(Work(work), range(12), jobs=3)) == [unit * unit for unit in range(12)]


def set_offset_and_square(offset: int, unit: int) -> int:
    set_offset(offset)
    return square(unit)


@contextmanager
def doomed_node(cluster: Cluster, there: Path) -> Iterator[str]:
    """The id of a node that is taken away once `there` is a file."""
    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()

    def remove() -> None:
        while not there.exists():
            time.sleep(0.05)
        cluster.remove_node(doomed)

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    try:
        yield doomed.node_id
    finally:
        there.touch()
        thread.join()


def test_whoever_stops_listening_does_not_wait_for_the_units_at_hand(opened: Opened) -> None:
    started = time.monotonic()
    results = opened.run(Work(wait_for), [0, 600, 600, 600], jobs=2)
    assert next(results) == 0
    results.close()
    assert list(opened.run(Work(wait_for), [0], jobs=2)) == [0]  # there is a processor for others
    assert time.monotonic() - started < 300


def wait_for(seconds: int) -> int:
    time.sleep(seconds)
    return seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 rows, every third with an image, five of them with defects of all kinds."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(5):
        make_image(folder / f"{number}.png", 40 + 30 * number, 50)
    rows: list[Any] = []
    for number in range(64):
        has_image = number % 3 == 0
        turns = [("user", f"{'<image>' * has_image}Question {number % 40}?"), ("assistant", f"Answer {number}.")]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append(make_record(messages=messages, images=[f"{number % 5}.png"] * has_image, label=number % 2 == 0))
    rows[7], rows[20], rows[33]["label"] = b"{no json", rows[19], "true"
    rows[40]["messages"][0]["content"] += " <image>"
    return write_jsonl(folder / "data.jsonl", rows)


def options(data: Path | str, model: Path, cache: Path | str) -> list[str]:
    asked = ["--invalid", "drop", "--eval-fraction", "0.3", "--contradictions", "drop", "--pack-images", "original"]
    return ["preprocess", str(data), "--model", str(model), "--output", str(cache), *SHARDS, *asked, "--quiet"]


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("llava_next")


@pytest.fixture(scope="module")
def expected(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the cache that the local engine makes in one process."""
    cache = tmp_path_factory.mktemp("expected") / "cache"
    assert main([*options(data, model, cache), "--jobs", "1"]) == 0
    return files_of(cache)


def settings(data: Path, model: Path, cache: Path, **more: Any) -> preprocessing.PreprocessSettings:
    root, packing = str(data.parent), more.pop("pack_images", "none")
    build = BuildSettings(
        model=str(model), image_root=root, budget=PixelBudget(), invalid=Invalid.DROP, pack_images=packing
    )
    inputs = {"train": open_inputs([str(data)])}
    return preprocessing.PreprocessSettings(
        inputs=inputs, output=cache, build=build, shard_rows=8, batch_size=4, jobs=2, **more
    )


def make(settings: preprocessing.PreprocessSettings) -> preprocessing.Result:
    return preprocessing.preprocess(settings, lambda *so_far: None)


def test_a_cluster_makes_the_cache_that_one_process_makes(
    opened: Opened, data: Path, model: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    allot = AllotSettings(eval_fraction=0.3, contradictions=Contradictions.DROP)
    make(settings(data, model, tmp_path / "cache", engine=opened.run, allot=allot, pack_images="original"))
    assert files_of(tmp_path / "cache") == expected


def test_a_worker_that_is_killed_when_its_shard_is_there_and_a_node_that_goes_change_no_byte(
    cluster: Cluster, opened: Opened, data: Path, model: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    more = {
        "allot": AllotSettings(eval_fraction=0.3, contradictions=Contradictions.DROP),
        "pack_images": "original",
    }
    killed, there = tmp_path / "killed", tmp_path / "there"
    late = ChangedEngine(opened.run, partial(KilledLate, word="shard-00002", marker=killed))
    make(settings(data, model, tmp_path / "late", engine=late, **more))
    assert killed.exists()
    with doomed_node(cluster, there) as node:
        stranded = ChangedEngine(opened.run, partial(Stranded, node=node, there=there, word="shard-0"))
        make(settings(data, model, tmp_path / "stranded", engine=stranded, **more))
    for cache in (tmp_path / "late", tmp_path / "stranded"):
        assert files_of(cache) == expected
        assert not [*cache.rglob("*.tmp"), *cache.glob(".building")]


@pytest.mark.parametrize("joins", [False, True], ids=["a Ray of its own", "a cluster"])
def test_the_command_makes_the_cache_that_one_process_makes(
    cluster: Cluster, data: Path, model: Path, expected: dict[str, bytes], tmp_path: Path, joins: bool
) -> None:
    where = ["--ray-address", cluster.address] if joins else ["--jobs", "2"]
    command = [*options(data, model, tmp_path / "cache"), "--engine", "ray", *where]
    subprocess.run([*KTODATA, *command], check=True)
    assert files_of(tmp_path / "cache") == expected


def test_whoever_watches_the_cluster_sees_what_its_tasks_are_about(
    opened: Opened, data: Path, model: Path, tmp_path: Path
) -> None:
    validate(open_inputs([str(data)]), CheckSettings(), jobs=2, engine=opened.run)
    make(settings(data, model, tmp_path / "cache", engine=opened.run, allot=AllotSettings(eval_fraction=0.3)))
    wanted = {
        "validate data.jsonl, from line 1 on", "first pass data.jsonl, from line 17 on",
        "preprocess train/shard-00002.arrow", "preprocess eval/shard-00002.arrow",
    }  # fmt: skip
    until = time.monotonic() + 60
    while not wanted <= {event["cat"].removeprefix("task::") for event in ray.timeline()}:
        assert time.monotonic() < until
        time.sleep(0.05)  # nodes report every second


@pytest.fixture
def s3(store: Store, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a bucket that has the data alone; this machine has nothing of earlier runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    system = store.empty_bucket()
    system.put(str(data.parent), "bucket/data", recursive=True)
    yield system
    store.spoil = lambda method, path: ""
    assert not NOWHERE.exists()
    assert not list(tmp_path.rglob("*.tmp"))


def make_at(url: str, model: Path, engine: Engine, **more: Any) -> preprocessing.Result:
    """The cache at `url` of the data in the bucket, with the images in it."""
    build = BuildSettings(
        model=str(model), image_root="s3://bucket/data", budget=PixelBudget(), pack_images="original",
        invalid=more.pop("invalid", Invalid.DROP),
    )  # fmt: skip
    fixed = {"batch_size": 4, "shard_rows": 8, "jobs": 2, "allot": AllotSettings(eval_fraction=0.3)}
    inputs = {"train": open_inputs(["s3://bucket/data/data.jsonl"])}
    place = {"output": work_folder(url), "url": url}
    return make(preprocessing.PreprocessSettings(inputs=inputs, build=build, engine=engine, **place, **fixed | more))


def objects(s3: Any, name: str) -> dict[str, bytes]:
    """What lies at a URL, but for what is different in every run, and what is left for the next one."""
    found = {path.removeprefix(f"bucket/{name}/"): s3.cat_file(path) for path in s3.find(f"bucket/{name}")}
    return {path: content for path, content in found.items() if path != "run.json" and not path.startswith(".units/")}


def test_data_images_and_cache_at_urls_give_the_same_on_one_process_on_two_and_on_a_cluster(
    opened: Opened, s3: Any, model: Path
) -> None:
    """Nodes of the cluster share no folder."""
    inputs = open_inputs(["s3://bucket/data/data.jsonl"])
    engines = {"one": (local.run, 1), "two": (local.run, 2), "cluster": (DistantEngine(opened.run), opened.jobs)}
    made, told = {}, {}
    for name, (run, jobs) in engines.items():
        assert make_at(f"s3://bucket/{name}", model, run, jobs=jobs).manifest is not None
        made[name] = objects(s3, name)
        validation = validate(inputs, CheckSettings(image_root="s3://bucket/data"), jobs=jobs, engine=run)
        told[name] = [finding for count in validation.worst_first() for finding in count.findings]
    assert made["one"] == made["two"] == made["cluster"]
    assert "manifest.json" in made["one"]
    assert any(name.startswith("images/") for name in made["one"])
    assert told["one"] == told["two"] == told["cluster"] != []


def test_what_nodes_have_put_to_a_url_is_gone_on_from_on_any_machine_and_spoils_no_cache_there(
    opened: Opened, s3: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, distant = "s3://bucket/cache", DistantEngine(opened.run)
    make_at(url, model, distant, shard_rows=40)
    before = objects(s3, "cache")
    assert make_at(url, model, distant, invalid=Invalid.ERROR).manifest is None
    assert {name: content for name, content in objects(s3, "cache").items() if name in before} == before
    assert load_cache(url).manifest.fingerprint == json.loads(before["manifest.json"])["fingerprint"]

    make_at("s3://bucket/anew", model, local.run, jobs=1)
    for number, run in enumerate([distant, distant, local.run]):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {number}"))
        done = make_at(url, model, run, jobs=1)
        assert (done.num_units, done.num_reused) == (16, 16)
        assert objects(s3, "cache") == objects(s3, "anew")
    assert load_cache(url).manifest == done.manifest


def test_a_store_that_is_busy_cuts_uploads_and_goes_away_costs_nodes_no_more_than_another_run(
    opened: Opened, store: Store, s3: Any, model: Path
) -> None:
    asked: Counter[str] = Counter()

    def spoil(method: str, path: str) -> Fault:
        if method != "PUT" or not path.startswith("/bucket/cache/"):
            return ""
        if sum(name.startswith("/bucket/cache/.building/") for name in asked) == 6:
            threading.Thread(target=store.stop).start()
            return "cut"
        asked[path] += 1
        return {1: "busy", 2: "cut"}.get(asked[path], "")  # type: ignore[return-value]

    store.spoil = spoil
    # One node may be reading when the other finds that it cannot write.
    with pytest.raises(InputError, match=r"cannot write to s3://bucket/cache|data\.jsonl cannot be read"):
        make_at("s3://bucket/cache", model, DistantEngine(opened.run))
    store.spoil = lambda method, path: ""
    store.start()
    assert "manifest.json" not in objects(s3, "cache")
    assert 0 < make_at("s3://bucket/cache", model, DistantEngine(opened.run)).num_reused < 16
    make_at("s3://bucket/anew", model, local.run, jobs=1)
    assert objects(s3, "cache") == objects(s3, "anew")


@pytest.fixture
def _tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process that dies is one to be started anew: two tell as much as four."""
    monkeypatch.setattr(engine, "_RETRIES", 1)


@pytest.mark.usefixtures("_tried_twice")
def test_rows_that_always_kill_their_worker_are_named_and_all_others_finished(
    opened: Opened, data: Path, model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    result = make(settings(data, model, cache, engine=DeadlyEngine(opened, "shard-00002")))
    (lost,) = (finding for finding in result.findings.kept if finding.code == "KTO904")
    assert (lost.location.path, lost.location.line) == (str(data), 17)
    assert lost.message.startswith("the process that worked on 8 rows of train/shard-00002.arrow from here on died")
    assert result.manifest is None
    assert not (cache / "manifest.json").exists()
    done = make(settings(data, model, cache, engine=opened.run))
    assert (done.num_units, done.num_reused) == (8, 7)


@pytest.mark.usefixtures("_tried_twice")
def test_rows_that_cannot_be_compared_with_others_are_named_before_anything_is_split(
    opened: Opened, data: Path, model: Path, tmp_path: Path
) -> None:
    deadly = DeadlyEngine(opened, "first_line=17,")
    allot = AllotSettings(eval_fraction=0.3)
    result = make(settings(data, model, tmp_path / "cache", engine=deadly, allot=allot))
    assert [(finding.code, finding.location.line) for finding in result.findings.kept] == [("KTO904", 17)]
    assert result.manifest is None


@pytest.mark.usefixtures("_tried_twice")
def test_validation_names_the_rows_that_always_kill_their_worker(opened: Opened, tmp_path: Path) -> None:
    paths = [
        write_jsonl(tmp_path / name, [make_record(id=f"{name} {i}") for i in range(3)])
        for name in ("a.jsonl", "b.jsonl")
    ]
    told: list[Finding] = []

    def listen(findings: Sequence[Finding]) -> None:
        told.extend(findings)

    inputs = open_inputs([str(path) for path in paths])
    result = validate(inputs, CheckSettings(), jobs=2, engine=DeadlyEngine(opened, f"path='{paths[0]}'"), listen=listen)
    assert [(f.location.path, f.location.line) for f in told if f.code == "KTO904"] == [(str(paths[0]), 1)]
    assert (result.num_rows, result.inputs[0].num_rows_ok, result.inputs[1].num_rows_ok) == (6, 0, 3)


def test_a_driver_that_is_killed_leaves_what_the_next_one_goes_on_from(
    cluster: Cluster, data: Path, model: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    command = [*options(data, model, cache), "--engine", "ray", "--ray-address", cluster.address]
    units = cache / ".building/.units"
    with subprocess.Popen([*KTODATA, *command]) as run:
        while not list(units.glob("[0-9a-f]*")) and run.poll() is None:
            time.sleep(0.01)
        run.kill()
    assert not (cache / "manifest.json").exists()
    assert list(units.glob("[0-9a-f]*"))
    assert main([*options(data, model, cache), "--jobs", "1"]) == 0
    assert files_of(cache) == expected
    assert not list(cache.rglob("*.tmp"))


def at_urls(model: Path, name: str) -> list[str]:
    """The command from the bucket to a place in it, but for where it runs."""
    return options("s3://bucket/data/data.jsonl", model, f"s3://bucket/{name}")


def test_a_driver_that_is_killed_with_its_cache_at_a_url_leaves_what_the_next_one_goes_on_from(
    cluster: Cluster, store: Store, s3: Any, model: Path, ray_folder: Path
) -> None:
    command = [*KTODATA, *at_urls(model, "cache"), "--engine", "ray", "--ray-address", cluster.address]
    sent: list[str] = []

    def kill(method: str, path: str) -> Fault:
        """While the sixth shard is on its way."""
        if method == "PUT" and path.startswith("/bucket/cache/.building/"):
            sent.append(path)
            if len(sent) == 6:
                run.kill()
        return ""

    store.spoil = kill
    with subprocess.Popen(command) as run:
        pass
    assert run.returncode == -signal.SIGKILL
    assert "manifest.json" not in objects(s3, "cache")

    before, store.spoil = set(sent), lambda method, path: sent.append(path) or "" if method == "PUT" else ""
    sent.clear()
    command.remove("--quiet")
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert int(re.findall(r"(\d+) of 16 shards were done already", done.stderr)[0]) >= 4, "two were under way"
    assert len(before.intersection(sent)) <= 2
    assert main([*at_urls(model, "anew"), "--jobs", "1"]) == 0
    assert objects(s3, "cache") == objects(s3, "anew")
    assert not [left for left in ray_folder.glob("kto*-*") if "-ray-" not in left.name]


def test_a_ray_of_its_own_makes_and_finds_at_urls_what_one_process_does(s3: Any, model: Path) -> None:
    own_ray = ["--engine", "ray", "--jobs", "2"]
    subprocess.run([*KTODATA, *at_urls(model, "cache"), *own_ray], check=True)
    assert main([*at_urls(model, "anew"), "--jobs", "1"]) == 0
    assert objects(s3, "cache") == objects(s3, "anew")
    arguments = ["validate", "s3://bucket/data/data.jsonl", "--output-format", "json", "--quiet"]
    assert report([*arguments, *own_ray]) == report([*arguments, "--jobs", "1"])


def report(arguments: list[str]) -> dict[str, Any]:
    """The JSON report of a validation, without what is different in every run."""
    done = subprocess.run([*KTODATA, *arguments], stdout=subprocess.PIPE, check=False)
    assert done.returncode == 1
    document: dict[str, Any] = json.loads(done.stdout)
    del document["run"]
    return document


def test_without_an_address_a_ray_is_started_and_stopped_and_finds_the_same(
    data: Path, ray_folder: Path, cluster: Cluster
) -> None:
    arguments = ["validate", str(data), "--output-format", "json", "--quiet"]
    before = {process.pid for process in psutil.process_iter() if process.name() == "raylet"}
    on_ray = report([*arguments, "--engine", "ray", "--jobs", "2"])
    assert on_ray == report([*arguments, "--jobs", "1"])
    assert on_ray == report([*arguments, "--engine", "ray", "--ray-address", cluster.address])
    assert {process.pid for process in psutil.process_iter() if process.name() == "raylet"} <= before
    assert not list(ray_folder.glob("kto*-ray-*"))


def test_an_interrupt_takes_down_the_ray_that_was_started(ray_folder: Path) -> None:
    line = json.dumps(make_record()).encode() + b"\n"
    command = [*KTODATA, "validate", "-", "--engine", "ray", "--jobs", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdin is not None
        while not list(ray_folder.glob("kto*-ray-*/session_latest/sockets/raylet")) and run.poll() is None:
            time.sleep(0.05)
        run.stdin.write(line * 20_000)
        run.stdin.flush()
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=120)
    assert (run.returncode, said.decode().splitlines()[-1]) == (130, "ktodata: interrupted")
    assert not list(ray_folder.glob("kto*-ray-*"))


def test_an_address_where_no_cluster_is_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address, words in (("ray://head:10001", "is the address of a Ray client"), ("nowhere", "cannot join")):
        assert main(["validate", str(data), "--engine", "ray", "--ray-address", address]) == 2
        assert words in capsys.readouterr().err
    assert main(["validate", str(data), "--ray-address", "auto"]) == 2
    assert "--ray-address is of use with --engine ray alone" in capsys.readouterr().err


def test_a_node_with_other_packages_or_folders_is_refused_by_name() -> None:
    setup = engine._Setup.here(Work(square, reads=("a relative path",)), "")
    (name, found), *rest = setup.versions
    with pytest.raises(UsageError, match=rf"has {name} {found}, and the node that was started on 2\.7"):
        replace(setup, versions=((name, "2.7"), *rest)).take_effect()
    with pytest.raises(UsageError, match="has no folder /nowhere"):
        replace(setup, folder="/nowhere").take_effect()
    with pytest.raises(UsageError, match="has no /nowhere/model") as raised:
        replace(setup, folder="/nowhere", reads=("/nowhere/model",)).take_effect()
    assert "in their container image" in raised.value.hint
    with pytest.raises(UsageError, match="does not see what is written to /nowhere") as raised:
        replace(setup, reads=(), sign="/nowhere/sign").take_effect()
    assert "a URL of object storage" in raised.value.hint


def test_a_node_without_the_folder_of_the_command_will_do_where_no_path_is_relative(tmp_path: Path) -> None:
    setup = engine._Setup.here(Work(square, reads=(str(tmp_path),)), "")
    with less_garbage_collection():  # so that what takes effect on this process is undone
        assert replace(setup, folder="/nowhere").take_effect()(3) == 9

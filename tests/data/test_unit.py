"""What a killed run, or one on data that has changed, leaves to be done: just what must be."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from forked import started
from test_preprocess import files_of

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_data.manifest import read_manifest

KTODATA = [sys.executable, "-m", "kto_data"]
NUM_SHARDS = 8
NUM_PICTURES = 40
ROWS_OF_A_SHARD = 5
BUDGET = ("--image-max-pixels", "1200")
PARTED = ("--eval-fraction", "0.3", "--contradictions", "majority")


def record(number: int, **overrides: Any) -> dict[str, Any]:
    turns = [("user", f"<image>What is in picture {number}?"), ("assistant", f"The number {number}.")]
    return make_record(
        messages=[{"role": role, "content": text} for role, text in turns],
        **{"images": [f"{number % 3}.png"], "label": number % 2 == 0, **overrides},
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(3):
        make_image(tmp_path / f"{number}.png", noise_seed=number)
    rows: list[Any] = [record(number) for number in range(NUM_SHARDS * ROWS_OF_A_SHARD)]
    rows[7] = record(7, label="perhaps")  # which is dropped
    return write_jsonl(tmp_path / "train.jsonl", rows)


@pytest.fixture
def command(tiny_model: TinyModel, data: Path) -> list[str]:
    fixed = ["--model", str(tiny_model("llava")), "--shard-rows", str(ROWS_OF_A_SHARD), "--invalid", "drop"]
    return ["preprocess", str(data), *fixed, "--jobs", "1"]


Again = Callable[..., str]


@pytest.fixture
def again(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Again:
    """Runs once more with further options, and gives what it said of what was done."""

    def run(*options: str, cache: str = "cache") -> str:
        capsys.readouterr()
        assert main([*command, "--output", str(tmp_path / cache), *options]) == 0
        return "\n".join(
            line.removeprefix("ktodata: ") for line in capsys.readouterr().err.splitlines() if "ktodata: " in line
        )

    return run


def test_a_second_run_finds_all_done_and_touches_nothing(again: Again, tmp_path: Path) -> None:
    again()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.name != ".lock"}
    assert again() == "nothing has changed: the cache stays as it is"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (tmp_path / "cache" / ".building").exists()


def test_without_resume_all_is_done_again_and_no_byte_differs(again: Again, tmp_path: Path) -> None:
    again()
    before = files_of(tmp_path / "cache")
    assert "done already" not in again("--no-resume")
    assert files_of(tmp_path / "cache") == before


def test_rows_that_are_added_cost_their_shards_alone(again: Again, data: Path, tmp_path: Path) -> None:
    again()
    with data.open("ab") as file:
        file.write(data.read_bytes().splitlines(keepends=True)[0].replace(b"picture 0", b"picture zero"))
    said = again()
    assert f"changed since the last run: inputs, train {data} " in said
    assert f"{NUM_SHARDS} of {NUM_SHARDS + 1} shards were done already" in said
    again(cache="afresh")
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "afresh")


@pytest.mark.parametrize("name", ["train/shard-00003.arrow", ".units", "report.json", "train/shard-00000.arrow"])
def test_what_was_damaged_is_made_again(again: Again, tmp_path: Path, name: str) -> None:
    again()
    cache = tmp_path / "cache"
    before = files_of(cache)
    path = cache / name
    for victim in sorted(path.iterdir())[:2] if path.is_dir() else [path]:
        victim.write_bytes(victim.read_bytes()[:-9] if name != "report.json" else b"")
        if name in ("report.json", "train/shard-00000.arrow"):
            victim.unlink()
    again()
    assert files_of(cache) == before


def test_an_image_that_is_mended_is_seen(again: Again, data: Path, tmp_path: Path) -> None:
    whole = data.with_name("1.png").read_bytes()
    data.with_name("1.png").write_bytes(whole[:-30])
    again()
    assert read_manifest(tmp_path / "cache").splits["train"].counts.dropped["KTO204"]
    data.with_name("1.png").write_bytes(whole)
    again()
    assert set(read_manifest(tmp_path / "cache").splits["train"].counts.dropped) == {"KTO402"}


def test_nothing_of_a_run_with_other_settings_is_left(again: Again, data: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "cache" / ".building" / "eval"
    leftover.mkdir(parents=True)
    (leftover / "shard-00000.arrow").write_bytes(b"of a run with an eval split, killed")
    (leftover.parent / "train").mkdir()
    (leftover.parent / "train" / ".shard-00000.arrow.77.tmp").write_bytes(b"killed while it was written")
    again()
    again(cache="afresh")
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "afresh")


def num_built(cache: Path) -> int:
    """How many chunks have their keys, and how many units are built."""
    return len(list(cache.glob(".building/.units/[0-9a-z]*")))


def wait_until_built(number: int, cache: Path, is_running: Callable[[], bool]) -> None:
    while is_running() and num_built(cache) < number:
        time.sleep(0.002)


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def number_of(victim: str, pid: int) -> int:
    """The number by which a run, its group or one of its workers can be signalled; 0 where that is not there yet."""
    if victim == "all":
        return -pid if os.getpgid(pid) == pid else 0
    if victim == "child":
        return workers_of(pid)[-1] if workers_of(pid) else 0
    return pid


def is_killed(run: ForkServerProcess, victim: str) -> bool:
    """Kill so much of a run; whether it was not done before."""
    assert run.pid is not None
    with suppress(ProcessLookupError):
        while run.is_alive() and not number_of(victim, run.pid):
            time.sleep(0.001)
        if run.is_alive() and (number := number_of(victim, run.pid)):
            os.kill(number, signal.SIGKILL)
    run.join()
    assert run.exitcode in (0, ExitCode.USAGE if victim == "child" else -signal.SIGKILL)
    return run.exitcode != 0


@pytest.mark.parametrize(
    ("jobs", "victims", "packing"),
    [("1", ["parent"], ()), ("2", ["parent", "child", "all"], ("--pack-images", "resized", *BUDGET))],
    ids=["one job", "two jobs, images packed"],
)
def test_a_run_killed_at_any_moment_is_gone_on_with_to_the_same_bytes(
    command: list[str],
    again: Again,
    data: Path,
    tmp_path: Path,
    jobs: str,
    victims: list[str],
    packing: tuple[str, ...],
) -> None:
    """Twenty runs one after the other, and more until both passes were met, are killed; then one is left alone."""
    for number in range(NUM_PICTURES):
        make_image(data.with_name(f"{number}.png"), noise_seed=number)
    num_rows = 4 * NUM_PICTURES
    write_jsonl(data, [record(number, images=[f"{number % NUM_PICTURES}.png"]) for number in range(num_rows)])
    options = (*PARTED, *packing, "--quiet")
    again(*options, cache="undisturbed")
    cache, chance = tmp_path / "cache", random.Random(4)

    def is_first_pass(number: int) -> bool:
        return number < num_rows / ROWS_OF_A_SHARD

    history: list[tuple[str, int]] = []  # of each kill, the victim and how much was built
    while len(history) < 20 or len({is_first_pass(number) for _, number in history}) < 2:
        if (cache / "manifest.json").exists():  # the last run was done before its moment came
            shutil.rmtree(cache)
        run = started([*command[:-1], jobs, *options, "--output", str(cache)])
        wait_until_built(num_built(cache) + chance.randrange(6), cache, run.is_alive)
        time.sleep(chance.random() * 0.01)
        victim = chance.choice(victims)
        if is_killed(run, victim):
            wait_for_the_lock(cache)
            history.append((victim, num_built(cache)))
    again(*options)
    assert files_of(cache) == files_of(tmp_path / "undisturbed"), history
    assert not (cache / ".building").exists()


def test_a_run_whose_workers_are_spawned_is_gone_on_with_too(
    command: list[str], again: Again, data: Path, tmp_path: Path
) -> None:
    write_jsonl(data, [record(number) for number in range(60 * ROWS_OF_A_SHARD)])
    again(*PARTED, cache="undisturbed")
    cache = tmp_path / "cache"
    # The first 60 are keys: one is killed in the first pass, one in the second.
    for victim, moment in (("parent", 3), ("child", 65)):
        parallel = [*KTODATA, *command[:-1], "2", *PARTED, "--output", str(cache), "--quiet"]
        with subprocess.Popen(parallel, stderr=subprocess.PIPE) as run:
            wait_until_built(max(moment, num_built(cache) + 3), cache, lambda: run.poll() is None)
            spawned = (pid for pid in workers_of(run.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
            os.kill(next(spawned) if victim == "child" else run.pid, signal.SIGKILL)
            assert run.stderr is not None
            said = run.stderr.read().decode()
        assert run.returncode == (2 if victim == "child" else -signal.SIGKILL)
        assert ("a worker process died" in said) is (victim == "child")
        assert not (cache / "manifest.json").exists()
        wait_for_the_lock(cache)
    again(*PARTED, "--quiet")
    assert files_of(cache) == files_of(tmp_path / "undisturbed")


def wait_for_the_lock(cache: Path) -> None:
    """Workers whose parent was killed write what they are at before they see that it is gone."""
    deadline = time.monotonic() + 60
    with open(cache / ".lock") as lock:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return
    pytest.fail("the lock is held for ever")

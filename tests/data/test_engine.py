"""The local engine: order, bounds, errors and deaths."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kto_data.engine import local
from kto_data.engine.contract import Work
from kto_data.errors import InputError
from kto_data.startup import OBJECTS_OF_PYTHON

_offset = 0


def _set_offset(value: int) -> None:
    global _offset
    _offset = value


def _square(unit: int) -> int:
    return unit * unit + _offset


def _fail_on_three(unit: int) -> int:
    if unit == 3:
        raise ValueError("three")
    return unit


def _die_on_three(unit: int) -> int:
    if unit == 3:
        os._exit(9)
    return unit


@pytest.mark.parametrize(("jobs", "may_fork"), [(1, False), (2, False), (2, True)])
def test_results_come_in_the_order_of_the_units(jobs: int, may_fork: bool) -> None:
    results = local.run(Work(_square, _set_offset, (5,), may_fork=may_fork), range(20), jobs=jobs)
    assert list(results) == [unit * unit + 5 for unit in range(20)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_takes_the_place_of_its_unit(jobs: int) -> None:
    results = local.run(Work(_fail_on_three), range(6), jobs=jobs)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize("may_fork", [False, True])
def test_a_dead_worker_is_a_named_error(may_fork: bool) -> None:
    with pytest.raises(InputError, match="worker process died"):
        list(local.run(Work(_die_on_three, may_fork=may_fork), range(8), jobs=2))


@pytest.mark.parametrize("jobs", [1, 2])
def test_where_units_are_worked_on_the_collector_passes_over_what_is_there_already(jobs: int) -> None:
    assert all(count > OBJECTS_OF_PYTHON for count in local.run(Work(_frozen), range(3), jobs=jobs))
    assert gc.get_freeze_count() < OBJECTS_OF_PYTHON


def _frozen(unit: int) -> int:
    return gc.get_freeze_count()


def test_units_are_drawn_no_faster_than_results_are_taken() -> None:
    drawn = []

    def units() -> object:
        for unit in range(50):
            drawn.append(unit)
            yield unit

    results = local.run(Work(_square), units(), jobs=2)
    next(results)
    assert len(drawn) <= 6
    results.close()


def test_whoever_stops_listening_does_not_wait_for_the_units_at_hand() -> None:
    results = local.run(Work(_sleep_long), [0, 60, 60, 60], jobs=2)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30


def _sleep_long(unit: int) -> int:
    time.sleep(unit)
    return unit


_DEATH_AT_THE_END = """
import os, signal, sys, threading, time
from multiprocessing import active_children
from kto_data.engine import local
from kto_data.engine.contract import Work

def names_of(frame):
    return [] if frame is None else [frame.f_code.co_name, *names_of(frame.f_back)]

def is_waited_for():
    frames = sys._current_frames().values()
    return any("join_executor_internals" in name for frame in frames for name in names_of(frame))

if __name__ == "__main__":
    results = local.run(Work(abs), [-1, -2, -3], jobs=2)
    found = [next(results) for _ in range(3)]
    workers = sorted(active_children(), key=lambda worker: worker.pid)
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    end = threading.Thread(target=found.extend, args=(results,))
    end.start()
    while not is_waited_for():
        time.sleep(0.01)
    os.kill(workers.pop(int(sys.argv[1])).pid, signal.SIGKILL)
    os.kill(workers[0].pid, signal.SIGCONT)
    end.join()
    print(*found)
"""


@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_worker_that_dies_when_all_is_done_keeps_nobody_waiting(victim: str, tmp_path: Path) -> None:
    """One of the two, if it has nothing to do, holds the lock under which the other one would learn that it may go."""
    script = tmp_path / "death.py"
    script.write_text(_DEATH_AT_THE_END)
    command = [sys.executable, str(script), victim]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["1", "2", "3"]


def test_a_single_unit_runs_in_this_process() -> None:
    assert list(local.run(Work(_process), [0], jobs=4)) == [os.getpid()]


def _process(unit: int) -> int:
    return os.getpid()


_FORKS = """
import _thread, sys, threading, time
from kto_data.engine import local
from kto_data.engine.contract import Work

if __name__ == "__main__":
    is_set = threading.Event()
    if sys.argv[1] == "threads":
        threading.Thread(target=is_set.wait).start()
    elif sys.argv[1] == "ending":  # as one is that was joined just now: Python knows nothing of it, the system does
        _thread.start_new_thread(time.sleep, (0.02,))
    words = local.run(Work(len, may_fork=True), ["a", "bc"], jobs=2)
    next(words)
    names = {type(child).__name__ for child in __import__("multiprocessing").active_children()}
    print(*names, *words)
    is_set.set()
"""


@pytest.mark.parametrize("threads", ["none", "threads", "ending"])
def test_a_process_is_forked_where_it_is_known_to_have_no_threads(threads: str, tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text(_FORKS)
    done = subprocess.run([sys.executable, str(script), threads], capture_output=True, text=True, check=True)
    forks = threads != "threads" and Path("/proc/self/task").exists()
    assert done.stdout.split() == ["ForkProcess" if forks else "SpawnProcess", "2"]


def test_a_unit_that_is_alone_is_worked_on_while_no_other_is(tmp_path: Path) -> None:
    """Each unit leaves a file while it is worked on, and says which ones it saw."""
    drawn: list[int] = []

    def units() -> Iterator[tuple[str, int]]:
        for unit in range(8):
            drawn.append(unit)
            yield str(tmp_path), unit

    results = local.run(Work(_see, is_alone=lambda unit: unit[1] in (3, 4)), units(), jobs=2)
    for unit, seen in enumerate(results):
        if unit in (3, 4):
            assert seen == [str(unit)]
            assert drawn[-1] == unit
    assert drawn == list(range(8))


def _see(unit: tuple[str, int]) -> list[str]:
    mine = Path(unit[0], str(unit[1]))
    mine.touch()
    time.sleep(0.05)
    seen = os.listdir(unit[0])
    mine.unlink()
    return seen


def threads_of_libraries(unit: int) -> tuple[str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("RAYON_NUM_THREADS")


def test_libraries_in_a_worker_keep_to_one_thread_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("RAYON_NUM_THREADS", "3")
    assert list(local.run(Work(threads_of_libraries), [1, 2, 3], jobs=2)) == [("1", "3")] * 3
    assert "OMP_NUM_THREADS" not in os.environ

"""The local engine: work over units in order, in this process or in others.

Those are spawned, since a fork of a process with threads (tokenizers, Arrow) may hang; where the caller says that a
fork may do, and there are no other threads, they are forked, which saves them all imports. Results come in the order of
the units, whatever finishes first, so that no output depends on the number of jobs. At most `jobs + 2` units are under
way, so that memory does not grow with the data.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import cast

from kto_data.engine.contract import Result, Unit, Work, in_order
from kto_data.errors import InputError
from kto_data.startup import collect_less_garbage, less_garbage_collection

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
"""What libraries are told by how many threads they may start; they read it once, before the first line of a worker."""

_LINGERING_SECONDS = 0.1  # that a thread is there for when it has ended, at most

_UNITS_AHEAD = 2  # units submitted beyond one a job, so that no job waits for the caller


def default_jobs() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(work: Work[Unit, Result], units: Iterable[Unit], *, jobs: int) -> Iterator[Result]:
    """An `Engine` on this machine; with one job all runs in this process.

    Raises `InputError` when a worker process dies: a pool does not know which unit it was, so `if_lost` is not used.
    """
    assert jobs >= 1
    units = iter(units)
    first = list(itertools.islice(units, 2 if jobs > 1 else 0))  # with one job, no more is held than is worked on
    is_short = len(first) < 2
    units = itertools.chain((first.pop(0) for _ in range(len(first))), units)
    if is_short:  # starting a process costs more than one unit is worth
        if work.initializer is not None:
            work.initializer(*work.initargs)
        with less_garbage_collection():
            yield from map(work.call, units)
        return
    with _one_thread_each():
        method = "fork" if work.may_fork and _is_alone_in_process() else "spawn"
        yield from _run_in_pool(work, units, jobs, method)


def _run_in_pool(work: Work[Unit, Result], units: Iterable[Unit], jobs: int, method: str) -> Iterator[Result]:
    others = set(active_children())
    pool = ProcessPoolExecutor(
        max_workers=jobs,
        mp_context=get_context(method),
        initializer=_start_worker,
        initargs=(work.initializer, work.initargs),
    )
    pending: deque[Future[Result]] = deque()
    is_done = False
    try:
        yield from in_order(
            units, lambda unit: pool.submit(work.call, unit), Future.result, pending,
            most=jobs + _UNITS_AHEAD, is_alone=work.is_alone,
        )  # fmt: skip
        is_done = True
    except BrokenProcessPool:
        raise InputError(
            "a worker process died (killed, or out of memory)",
            hint="run again with --jobs 1 to see where, or with fewer jobs to need less memory",
        ) from None
    finally:
        workers = set(active_children()) - others
        if not is_done:  # Ctrl-C, an error, or a caller that stops listening: nobody waits for the units at hand
            _kill(workers)
        seeing_off = threading.Thread(target=_see_off, args=(workers,), daemon=True)
        seeing_off.start()
        pool.shutdown(wait=True, cancel_futures=True)
        seeing_off.join()


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()  # whatever handles SIGTERM there may wait for a lock that another killed worker held


def _see_off(workers: Iterable[BaseProcess]) -> None:
    """Wait until workers that were told to go have gone.

    One that is killed meanwhile may leave locked what the others read: they are killed too, for they have nothing left
    to do.
    """
    there = {worker.sentinel: worker for worker in workers}
    while there:
        for sentinel in connection.wait(list(there)):
            worker = there.pop(cast(int, sentinel))
            while worker.exitcode is None:  # it is gone, and the pool is about to note how
                time.sleep(0.001)
            if worker.exitcode < 0:
                _kill(there.values())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Libraries in worker processes that start meanwhile keep to one thread: the jobs already use every processor. But
    what the user has set stays."""
    unset = [name for name in _POOLS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _is_alone_in_process() -> bool:
    """Whether the system knows of no other thread in this process; where that cannot be told there may be some.

    One that ended just now is still known to the system when Python has joined it: that is waited for.
    """
    latest = time.monotonic() + _LINGERING_SECONDS
    try:
        while len(os.listdir("/proc/self/task")) > 1:
            if threading.active_count() > 1 or time.monotonic() > latest:
                return False
            time.sleep(0.001)
    except OSError:
        return False
    return True


def _start_worker(initializer: Callable[..., None] | None, initargs: tuple[object, ...]) -> None:
    # Ctrl-C reaches the whole process group: the parent alone decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)
    collect_less_garbage()


def _leave_with_the_parent() -> None:
    # A worker waits for work at both ends of its pipe: where the parent was killed it would do so for ever.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

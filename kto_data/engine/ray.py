"""The Ray engine: work over units as tasks of a Ray cluster, or of a Ray of its own on this machine. The home of ray.

    Unit ─▶ task on any node ─▶ pickled result ─▶ Result, in the order of the units

A task does what a process of the local engine does, in a process that has the same modules and packages, and sees the
files and folders that the work says it needs. One whose process dies is tried again elsewhere, three times; then its
unit is lost, and the others go on.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from kto_data.engine.contract import Opened, Result, Unit, Work, in_order
from kto_data.errors import InputError, KtoDataError, UsageError, first_line
from kto_data.scratch import ScratchFolder
from kto_data.startup import collect_less_garbage
from kto_data.writing import writing_to

_RETRIES = 3
_UNITS_A_JOB = 2  # submitted at a time: one that is tried again must not keep the others waiting at once
_STORE_BYTES_A_JOB = 64 << 20  # of shared memory, for units and results under way; what is more goes to disk
_LONGEST_ROOT = 17  # characters: Ray puts sockets below, whose paths must not have more than 107
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_PACKAGES = (
    "ktodata", "datasets", "fastokens", "jinja2", "numpy", "pillow", "polars", "pyarrow", "tokenizers", "transformers",
)  # fmt: skip
"""Those whose version may change findings, ids or bytes."""


@contextmanager
def session(*, jobs: int | None, address: str | None) -> Iterator[Opened]:
    """The cluster at `address`, with one job a processor unless `jobs` says otherwise; without an address a Ray that
    lives as long as the block, with `jobs` processes.

    Raises `UsageError` where there is no such cluster, or it has no processor, and `InputError` where no Ray starts.
    """
    _set_environment(is_own=address is None)
    import ray

    before = signal.getsignal(signal.SIGTERM)
    folder: ScratchFolder | None = None
    try:
        if address is None:
            folder = _temporary_folder()
            jobs = jobs or 1
            _start(folder.name, jobs)
        else:
            _join(address)
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler leaves without a word. This way it is as with Ctrl-C: all is taken down, and said.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        jobs = jobs or int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if not jobs:
            raise UsageError(f"the Ray cluster at {address} has no processor", hint="start its workers first")
        yield Opened(_run, jobs)
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
        if folder is not None:
            folder.cleanup()


def _set_environment(*, is_own: bool) -> None:
    """What Ray reads when it is imported, and hands on to the processes that it starts."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Deaths of workers are printed on standard output otherwise, in the middle of the findings.
    os.environ["RAY_DEDUP_LOGS"], os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "1", "^"
    if is_own:
        # Ray listens on every interface, and runs the code of whoever may speak to it.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _temporary_folder() -> ScratchFolder:
    root = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(root) > _LONGEST_ROOT and "RAY_TMPDIR" not in os.environ:
        root = "/tmp"
    return ScratchFolder("ray-", root)


def _start(folder: str, jobs: int) -> None:
    import ray

    try:
        ray.init(
            address="local", num_cpus=jobs, include_dashboard=False, **_QUIET, _temp_dir=folder,
            object_store_memory=max(2, jobs) * _UNITS_A_JOB * _STORE_BYTES_A_JOB,
            _system_config={"task_oom_retries": _RETRIES, "worker_niceness": 0},  # as nice as local processes
        )  # fmt: skip
    except Exception as error:  # Ray raises just that where its processes do not come up in time
        raise InputError(
            f"Ray did not start: {first_line(error)}", hint="the machine may be too busy: try again, or --engine local"
        ) from error


def _join(address: str) -> None:
    import ray

    if address.startswith("ray://"):
        raise UsageError(
            f"--ray-address {address} is the address of a Ray client",
            hint="run this on a node of the cluster, as a Ray job for one, with --ray-address auto",
        )
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"cannot join the Ray cluster at {address}: {first_line(error)}",
            hint="give HOST:PORT of its head, or auto on one of its nodes; `ray status` says whether it is up",
        ) from None


def _run(work: Work[Unit, Result], units: Iterable[Unit], *, jobs: int) -> Iterator[Result]:
    """An `Engine` on the cluster that this process has joined, where nothing is forked.

    Raises `UsageError` where a node is not fit for the work.
    """
    with _sign_in(work.folder if work.call_afar is None else None) as sign:
        yield from _run_tasks(work, _Setup.here(work, sign), units, jobs)


@contextmanager
def _sign_in(folder: Path | None) -> Iterator[str]:
    """A file in the folder, by which another process can tell that it sees this very one; empty where there is none."""
    if folder is None:
        yield ""
        return
    sign = folder.absolute() / f".seen-by-all.{secrets.token_hex(8)}.tmp"
    with writing_to(sign):
        sign.touch()
    try:
        yield str(sign)
    finally:
        sign.unlink(missing_ok=True)


def _run_tasks(work: Work[Unit, Result], setup: _Setup, units: Iterable[Unit], jobs: int) -> Iterator[Result]:
    import ray

    place = [ray.put(setup)]  # in a list, so that not every task has to fetch it
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work)
    pending: deque[tuple[Unit, Any]] = deque()

    def submit(unit: Unit) -> tuple[Unit, Any]:
        return unit, task.options(name=work.name(unit)).remote(place, setup.key, pickle.dumps(unit))

    def take(handle: tuple[Unit, Any]) -> Result:
        return _result(*handle, work.if_lost)

    try:
        yield from in_order(units, submit, take, pending, most=jobs * _UNITS_A_JOB, is_alone=work.is_alone)
    finally:  # Ctrl-C, an error, or a caller that stops listening: nobody waits for the units at hand
        for _, promised in pending:
            ray.cancel(promised, force=True)


def _result(unit: Unit, promised: Any, if_lost: Callable[[Unit], Result] | None) -> Result:
    import ray
    from ray import exceptions

    try:
        answer: Result = pickle.loads(ray.get(promised))
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, KtoDataError):
            raise error.cause from None
        raise (error.cause or error) from error  # with the lines of the other process in it
    except (
        exceptions.WorkerCrashedError,
        exceptions.OutOfMemoryError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
    ):
        if if_lost is None:
            raise InputError(
                f"a worker process died, and so did the {_RETRIES} that tried its work again",
                hint="run with --engine local --jobs 1 to see where",
            ) from None
        return if_lost(unit)
    except exceptions.RayError as error:
        raise InputError(f"Ray failed: {first_line(error)}", hint="`ray status` says how the cluster is") from error
    return answer


@dataclass(frozen=True, slots=True)
class _Setup:
    """What makes a process of the cluster one that can do the work."""

    key: str
    folder: str  # where relative paths start
    modules: tuple[str, ...]  # where Python looks for modules
    versions: tuple[tuple[str, str], ...]
    call: bytes  # work, initializer and its arguments, pickled
    reads: tuple[str, ...]  # paths that must be there
    sign: str  # a file that is seen where the folder is that is written to; empty where there is none

    @classmethod
    def here(cls, work: Work[Unit, Result], sign: str) -> _Setup:
        """A process such as this one."""
        return cls(
            secrets.token_hex(8),
            os.getcwd(),
            tuple(sys.path),
            _versions(),
            pickle.dumps((work.call_afar or work.call, work.initializer, work.initargs)),
            work.reads,
            sign,
        )

    def take_effect(self) -> Callable[[Any], object]:
        """Make this process such a one, and return its work. Raises `UsageError` where it cannot be one."""
        self._check_node()
        sys.path += [path for path in self.modules if path not in sys.path]
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cluster's tasks already use every processor
        work, initializer, initargs = pickle.loads(self.call)
        if initializer is not None:
            initializer(*initargs)
        collect_less_garbage()
        result: Callable[[Any], object] = work
        return result

    def _check_node(self) -> None:
        node = f"node {socket.gethostname()}"
        for (name, wanted), (_, found) in zip(self.versions, _versions(), strict=True):
            if wanted != found:
                raise UsageError(
                    f"{node} has {name} {found}, and the node that was started on {wanted}",
                    hint="install the same packages on every node",
                )
        try:
            os.chdir(self.folder)
        except OSError:
            if not all(map(os.path.isabs, self.reads)) or self.sign:
                raise UsageError(
                    f"{node} has no folder {self.folder}, where relative paths start",
                    hint="start in a folder that all nodes see, with data and cache on a file system that they share",
                ) from None
        for path in self.reads:
            if not os.path.exists(path):
                raise UsageError(
                    f"{node} has no {path}",
                    hint="data and images on a file system that all nodes share, or at a URL; a model there, or at the "
                    "same place on each of them: in their container image, for one",
                )
        if self.sign and not os.path.exists(self.sign):
            raise UsageError(
                f"{node} does not see what is written to {os.path.dirname(self.sign)}",
                hint="give --output a folder on a file system that all nodes share, or a URL of object storage",
            )


def _versions() -> tuple[tuple[str, str], ...]:
    return ("python", python_version()), *((name, _version(name)) for name in _PACKAGES)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


_ready: tuple[str, Callable[[Any], object]] | None = None  # key of the setup that this process has, and its work


def _work(place: list[Any], key: str, unit: bytes) -> bytes:
    """One unit's work in a process of the cluster.

    The result is pickled here: Ray's own way would leave its arrays in shared memory for as long as they are used.
    """
    global _ready
    import ray

    if _ready is None or _ready[0] != key:
        _ready = key, ray.get(place[0]).take_effect()
    return pickle.dumps(_ready[1](pickle.loads(unit)))

"""Work that kills its processes, and work whose files are on another machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from kto_data.engine.contract import Engine, Opened, Work

NOWHERE = Path("/nowhere")
"""A folder that no process sees."""


@dataclass(frozen=True)
class Deadly:
    """Work that kills its process at units whose text has `word` in it; with a `marker`, only the first time.

    It does so before `start`, what is to run once a process, so that dying does not take long.
    """

    work: Callable[[Any], Any]
    word: str
    marker: Path | None = None
    start: Callable[[], None] | None = None

    def __call__(self, unit: Any) -> Any:
        if self.word in repr(unit) and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.start and self not in _started:
            self.start()
            _started.append(self)
        return self.work(unit)


_started: list[Deadly] = []


@dataclass(frozen=True)
class DeadlyEngine:
    """An engine whose work kills its processes as `Deadly` says."""

    opened: Opened
    word: str

    def __call__(self, work: Work[Any, Any], units: Any, *, jobs: int) -> Iterator[Any]:
        start = partial(work.initializer, *work.initargs)
        afar = work.call_afar and Deadly(work.call_afar, self.word, start=start)
        deadly = replace(work, call=Deadly(work.call, self.word, start=start), call_afar=afar, initializer=None)
        return self.opened.run(deadly, units, jobs=jobs)


@dataclass(frozen=True)
class KilledLate:
    """Work that kills its process once, when a unit whose text has `word` in it is done and nobody knows it yet."""

    work: Callable[[Any], Any]
    word: str
    marker: Path

    def __call__(self, unit: Any) -> Any:
        result = self.work(unit)
        if self.word in repr(unit) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@dataclass(frozen=True)
class Stranded:
    """Work that never ends on the node `node` with units whose text has `word` in it: once one is there, which `there`
    says, the others begin."""

    work: Callable[[Any], Any]
    node: str
    there: Path
    word: str = ""

    def __call__(self, unit: Any) -> Any:
        if self.word not in repr(unit):
            return self.work(unit)
        if ray.get_runtime_context().get_node_id() == self.node:
            self.there.touch()
            signal.pause()
        while not self.there.exists():  # the others leave it a unit, however long it takes to start
            time.sleep(0.05)
        return self.work(unit)


@dataclass(frozen=True)
class ChangedEngine:
    """An engine with other work in the place of what it is given."""

    run: Engine
    change: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]

    def __call__(self, work: Work[Any, Any], units: Any, *, jobs: int) -> Iterator[Any]:
        afar = work.call_afar and self.change(work.call_afar)
        return self.run(replace(work, call=self.change(work.call), call_afar=afar), units, jobs=jobs)


@dataclass(frozen=True)
class DistantEngine:
    """An engine whose processes see no file of this one: no copy that it has made of a file at a URL, nor the folder
    in which it makes a cache."""

    run: Engine

    def __call__(self, work: Work[Any, Any], units: Iterable[Any], *, jobs: int) -> Iterator[Any]:
        return self.run(work, map(_distant, units), jobs=jobs)


def _distant(unit: Any) -> Any:
    elsewhere = {"folder": NOWHERE / "building/train", "caches": (NOWHERE,)} if hasattr(unit, "folder") else {}
    return replace(unit, chunk=replace(unit.chunk, local=str(NOWHERE / "copy")), **elsewhere)

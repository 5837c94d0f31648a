"""The first pass over the data, where rows must be known to each other before any is kept: which side each line is on,
and which go because they contradict others.

    Input(s) ─▶ KeyTask(s) ─▶ Keys ─▶ Samples ─▶ Allotment: chunks of the second pass, parted

Of a sample 25 bytes are kept, of an image 12, on disk where they are many, and sorting them takes as much again; of a
line one byte stays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kto_data import keys
from kto_data.check import CheckSettings
from kto_data.chunk import Chunk, changed, reading
from kto_data.engine import local
from kto_data.engine.contract import Engine, Work
from kto_data.errors import InputError, UsageError
from kto_data.finding import Finding
from kto_data.inputs import Input, paths_read
from kto_data.keys import AllKeys, Keys, KeyTask
from kto_data.lost import lost_rows
from kto_data.paths import EVAL, TRAIN
from kto_data.policy import Contradictions
from kto_data.so_far import InputSoFar, share_done
from kto_data.source import STDIN
from kto_data.split import Samples, contradicting_lines, groups, lines_of_evaluation
from kto_data.storage import is_shared

Progress = Callable[[int, float | None], None]
"""Told the number of rows that were looked at, and about what share of all that is, where it is known."""

_State = tuple[int, int, int]
"""Which file a path leads to, without reading it: its size and times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllotSettings:
    """What becomes of a row because of others."""

    eval_fraction: float | None = None  # of the rows of `train`; None: no split is made
    seed: int = 0
    contradictions: Contradictions = Contradictions.KEEP

    @property
    def asks_for_keys(self) -> bool:
        """Whether the data must be looked at as a whole first."""
        return self.eval_fraction is not None or self.contradictions is not Contradictions.KEEP

    def parts(self) -> dict[str, Any]:
        """The settings by the names that a person knows them by; a seed that draws nothing is none."""
        seed = None if self.eval_fraction is None else self.seed
        return {"eval_fraction": self.eval_fraction, "seed": seed, "contradictions": self.contradictions.value}


@dataclass(frozen=True, slots=True)
class Part:
    """The lines of a chunk that go to one split."""

    split: str
    chunk: Chunk
    contradicting: tuple[int, ...] = ()  # places among them, 0-based, of those that go


class Allotment:
    """What was found out about each line, told chunk by chunk in the order of the first pass."""

    def __init__(
        self,
        *,
        is_evaluated: NDArray[np.bool_] | None = None,
        is_contradicting: NDArray[np.bool_] | None = None,
        names: Sequence[str] = (),
        seen: Mapping[str, _State] | None = None,
        lost: Sequence[Finding] = (),
    ) -> None:
        self.names = names  # of the files that keys are kept in
        self.lost = lost  # what is said of rows that could not be looked at; where there are any, nothing is found out
        self._is_evaluated = is_evaluated  # None where no split is made
        self._is_contradicting = is_contradicting  # None where nothing was looked at
        self._seen = seen or {}
        self._num_told = 0

    def parts(self, chunk: Chunk, split: str) -> Iterator[Part]:
        """The next chunk, of a file of `split`, in one part for each split that it has lines of.

        Raises `InputError` where the file has changed since the first pass.
        """
        if self._is_contradicting is None:
            yield Part(split, chunk)
            return
        run = slice(self._num_told, self._num_told + chunk.num_rows)
        self._num_told = run.stop
        goes = self._is_contradicting[run]
        if len(goes) != chunk.num_rows or self._seen[chunk.path] != _state(chunk.local):
            raise changed(chunk.path)
        if self._is_evaluated is None:
            yield Part(split, chunk, _places(goes))
            return
        for name, is_here in ((TRAIN, ~self._is_evaluated[run]), (EVAL, self._is_evaluated[run])):
            if is_here.any():
                part = chunk if is_here.all() else replace(chunk, chosen=frozenset(_places(is_here)))
                yield Part(name, part, _places(goes[is_here]))


def allot(
    settings: AllotSettings,
    inputs: Sequence[Input],
    checks: CheckSettings,
    *,
    rows_per_chunk: int,
    jobs: int,
    engine: Engine = local.run,
    folder: Path,
    caches: Sequence[Path],
    url: str = "",
    progress: Progress = lambda num_rows, share: None,
) -> Allotment:
    """Look at all lines of all inputs, and say what becomes of each because of the others.

    `folder`, `caches` and `url` are as of `KeyTask`. Raises `UsageError` for standard input, and `InputError` where a
    file cannot be read, or its rows cannot be split.
    """
    if not settings.asks_for_keys:
        return Allotment()
    if any(entry.source.path == STDIN for entry in inputs):
        asked = "--contradictions" if settings.eval_fraction is None else "--eval-fraction"
        raise UsageError(
            f"{asked} reads its input twice, which standard input cannot be",
            hint="write it to a file, and name that",
        )
    seen = {entry.source.path: _state(entry.source.local) for entry in inputs}
    every, names, lost, num_lines = AllKeys(), list[str](), list[Finding](), 0
    files = [InputSoFar(TRAIN, entry) for entry in inputs]
    under_way: deque[tuple[InputSoFar, int]] = deque()  # of each chunk its file, and how many lines it has

    def tasks() -> Iterator[KeyTask]:
        for file in files:
            for chunk in file.chunks(rows_per_chunk):
                under_way.append((file, chunk.num_rows))
                file.num_units_drawn += 1
                yield KeyTask(chunk, file.file.layout, folder, tuple(caches), url)

    def give_up(task: KeyTask) -> Keys:
        lost.append(lost_rows(task.chunk))
        return Keys()

    work = Work(
        keys.gather, keys.start, (checks,), if_lost=give_up, reads=paths_read(inputs, checks.image_root),
        folder=folder, call_afar=keys.gather_afar if url and is_shared(url) else None,
        name=lambda task: f"first pass {task.chunk.place}",
    )  # fmt: skip
    for found in engine(work, tasks(), jobs=jobs):
        every.extend(found, first_line=num_lines)
        names.append(found.name)
        file, num_rows = under_way.popleft()
        file.num_units_done += 1
        num_lines += num_rows
        progress(num_lines, share_done(files))
    if lost:
        return Allotment(lost=lost)
    samples = _samples(every)
    is_contradicting = np.zeros(num_lines, bool)
    is_contradicting[contradicting_lines(samples, settings.contradictions)] = True
    is_evaluated = None if settings.eval_fraction is None else _evaluated(settings, samples, num_lines)
    return Allotment(is_evaluated=is_evaluated, is_contradicting=is_contradicting, names=names, seen=seen)


def _evaluated(settings: AllotSettings, samples: Samples, num_lines: int) -> NDArray[np.bool_]:
    assert settings.eval_fraction is not None
    first_lines = groups(samples, num_lines)
    if len(samples.lines) and (first_lines[samples.lines] == first_lines[samples.lines[0]]).all():
        number = len(samples.lines)
        tied = f"all {number:,} rows share a prompt or an image, if only through others"
        raise InputError(
            f"no eval split can be made: {tied if number > 1 else 'there is one row'}",
            hint="give the eval split files of its own: --eval-data FILE",
        )
    return lines_of_evaluation(samples, first_lines, fraction=settings.eval_fraction, seed=settings.seed)


def _samples(keys: AllKeys) -> Samples:
    """The columns as numpy has them, without a copy."""
    columns: list[Any] = [
        np.frombuffer(column, f"u{column.itemsize}") if column else np.zeros(0, f"u{column.itemsize}")
        for column in keys.columns()
    ]
    lines, prompts, completions, labels, sources, images, image_lines = columns
    return Samples(
        lines=lines, prompts=prompts, completions=completions, labels=labels.view(np.bool_), sources=sources,
        images=images, image_lines=image_lines,
    )  # fmt: skip


def _places(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _state(path: str) -> _State:
    with reading(path):
        status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns

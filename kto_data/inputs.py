"""What the user named, opened: files with the layout their records are read by, and which of their rows are wanted."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kto_data import storage
from kto_data.chunk import Chunk
from kto_data.dataset_info import load_dataset_info
from kto_data.errors import UsageError
from kto_data.formats import Layout, make_layout
from kto_data.opening import open_source
from kto_data.paths import TRAIN, Say, named_files
from kto_data.source import STDIN, Source


@dataclass(frozen=True, slots=True)
class Input:
    """One input file and how its records are read."""

    source: Source
    layout: Layout
    split: str = TRAIN


def open_inputs(
    paths: Sequence[str],
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    dataset_info: Path | None = None,
    dataset: str | None = None,
    splits: Collection[tuple[str, str]] = (),
    say: Say = lambda line: None,
) -> tuple[Input, ...]:
    """The files at `paths` and of `splits`, or the one that the entry `dataset` of the registry `dataset_info` names.

    `splits`: the name of a split, and a path of it; its files are not in the train split, whatever `paths` says. With
    both, the registry gives the layout and `paths` the files. `columns`: our name -> the user's column. `say` is
    told what was left out of a folder or named twice. Raises `UsageError` where nothing is named or the options do not
    go together, `ConfigError` for the registry, and `InputError` for a file.
    """
    if (dataset_info is None) != (dataset is None):
        raise UsageError("--dataset-info and --dataset go together", hint="give the file and the name of its entry")
    if dataset_info is None or dataset is None:
        layout = make_layout(format, columns)
    else:
        if format != "auto" or columns:
            raise UsageError(
                f"{'--map' if columns else '--format'} cannot be given with --dataset-info",
                hint="the entry says which format it is, and which columns hold what",
            )
        layout, path = load_dataset_info(dataset_info, dataset)
        paths = paths or [str(path)]
    if not paths and not splits:
        raise UsageError("no data file is named", hint="name one or more files, or - for standard input")
    files = named_files(paths, splits, say)
    return tuple(Input(open_source(file.path), layout, file.split) for file in files)


def paths_read(inputs: Sequence[Input], *others: str | Path | None) -> tuple[str, ...]:
    """What every process must see that works on chunks of the inputs: their files, the folder that image paths of
    standard input start from, and of `others`, which are model folders, image roots and the like, those that are
    paths."""
    files = [entry.source.local for entry in inputs if entry.source.is_read_by_chunks]
    if any(entry.source.path == STDIN for entry in inputs):
        files.append(os.curdir)
    return *files, *(os.fspath(path) for path in others if path is not None and os.path.exists(path))


def num_bytes(inputs: Iterable[Input]) -> int | None:
    """Bytes of the records of all inputs, and about as many characters; None where the size of a file does not tell."""
    sizes = [entry.source.num_bytes if entry.source.kind.tells_place else None for entry in inputs]
    return None if None in sizes else sum(filter(None, sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Which rows of all inputs are looked at: the first `stop`, or those `chosen`, or all."""

    stop: int | None = None
    chosen: Sequence[int] | None = None  # places among all rows, 0-based, ascending
    text: str = ""  # what to say of it; empty where it is all

    def chunks(self, inputs: Iterable[Input], rows_per_chunk: int) -> Iterator[tuple[Input, Chunk]]:
        """The chunks with a row that is wanted, each with its input. Raises `InputError` as `Source.chunks` does."""
        first, at = 0, 0  # the place of the chunk's first row; how many of `chosen` are before it
        for entry in inputs:
            for chunk in entry.source.chunks(rows_per_chunk):
                if self.stop is not None:
                    if first >= self.stop:
                        return
                    if first + chunk.num_rows > self.stop:
                        chunk = replace(chunk, chosen=frozenset(range(self.stop - first)))
                elif self.chosen is not None:
                    start = at
                    while at < len(self.chosen) and self.chosen[at] < first + chunk.num_rows:
                        at += 1
                    chunk = replace(chunk, chosen=frozenset(place - first for place in self.chosen[start:at]))
                first += chunk.num_rows
                if chunk.chosen is None or chunk.chosen:
                    yield entry, chunk


ALL_ROWS = Excerpt()


def take_excerpt(inputs: Sequence[Input], *, limit: int | None, sample: int | None, seed: int) -> Excerpt:
    """The first `limit` rows, or `sample` rows drawn with `seed`: the same ones of the same files, in their order.

    Reads the files once for a sample. Raises `UsageError` where that cannot be.
    """
    if limit is not None and sample is not None:
        raise UsageError(
            "--limit and --sample cannot be given together", hint="one says which rows, the other how many"
        )
    if limit is not None:
        return Excerpt(stop=limit, text=f"no more than the first {limit:,} rows are looked at")
    if sample is None:
        return ALL_ROWS
    if any(entry.source.path == STDIN for entry in inputs):
        raise UsageError(
            "--sample reads its input twice, which standard input cannot be", hint="write it to a file, or use --limit"
        )
    total = sum(chunk.num_rows for entry in inputs for chunk in entry.source.chunks())
    if sample >= total:
        return ALL_ROWS
    chosen = sorted(random.Random(seed).sample(range(total), sample))
    return Excerpt(chosen=chosen, text=f"{sample:,} of {total:,} rows are looked at, drawn with --seed {seed}")


def common_folder(inputs: Iterable[Input]) -> str:
    """The folder that all the files are in, resolved, or its URL: where image paths start if nothing else is said.

    Raises `UsageError` where there is more than one.
    """
    folders = {folder_of(entry.source.path) for entry in inputs}
    if len(folders) > 1:
        shown = ", ".join(sorted(folders)[:2])
        raise UsageError(
            f"the files are in several folders ({shown}{', …' if len(folders) > 2 else ''})",
            hint="give --image-root, the folder that all image paths start from",
        )
    return folders.pop()


def folder_of(path: str) -> str:
    """The folder that a data file is in, resolved, or its URL; of standard input the current one."""
    if path == STDIN:
        return os.path.realpath(os.curdir)
    if storage.is_url(path):
        local = storage.local_path(path)
        if local is None:
            return os.path.dirname(path)
        path = local
    return os.path.realpath(os.path.dirname(path))

"""What the user named, opened: files with the layout their records are read by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kto_data.dataset_info import load_dataset_info
from kto_data.errors import UsageError
from kto_data.formats import Layout, make_layout
from kto_data.source import STDIN, Source, open_source


@dataclass(frozen=True, slots=True)
class Input:
    """One input file and how its records are read."""

    source: Source
    layout: Layout
    split: str = "train"


def open_inputs(
    paths: Sequence[str], *, format: str = "auto", dataset_info: Path | None = None, dataset: str | None = None
) -> tuple[Input, ...]:
    """The files at `paths`, or the one that the entry `dataset` of the registry `dataset_info` names.

    With both, the registry gives the layout and `paths` the files. Raises `UsageError` where nothing is named or the
    options do not go together, `ConfigError` for the registry, and `InputError` for a file.
    """
    if (dataset_info is None) != (dataset is None):
        raise UsageError("--dataset-info and --dataset go together", hint="give the file and the name of its entry")
    if dataset_info is None or dataset is None:
        layout = make_layout(format)
    else:
        if format != "auto":
            raise UsageError("--format cannot be given with --dataset-info", hint="the entry says which format it is")
        layout, path = load_dataset_info(dataset_info, dataset)
        paths = paths or [str(path)]
    if not paths:
        raise UsageError("no data file is named", hint="name one or more files, or - for standard input")
    return tuple(Input(open_source(path), layout) for path in paths)


def common_folder(inputs: Iterable[Input]) -> Path:
    """The folder that all the files are in, resolved: where image paths start if nothing else is said.

    Raises `UsageError` where there is more than one.
    """
    folders = {_folder(entry.source.path) for entry in inputs}
    if len(folders) > 1:
        shown = ", ".join(str(folder) for folder in sorted(folders)[:2])
        raise UsageError(
            f"the files are in several folders ({shown}{', …' if len(folders) > 2 else ''})",
            hint="give --image-root, the folder that all image paths start from",
        )
    return folders.pop()


def _folder(path: str) -> Path:
    return Path.cwd().resolve() if path == STDIN else Path(os.path.realpath(os.path.dirname(path)))

"""What the user named, file by file: folders, patterns and URLs spelt out, and nothing twice."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kto_data import storage
from kto_data.errors import InputError, UsageError
from kto_data.opening import SUFFIXES, kind_of
from kto_data.source import STDIN

TRAIN = "train"
"""The split that is trained on: of a file where the user says nothing else."""
EVAL = "eval"
"""The split that is held back."""

_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json"})  # registries, which describe data
_SHOWN = 4

Say = Callable[[str], None]
"""Told what a person should know of how their words were taken, a line each time."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """One data file, as it will be called, and its split."""

    path: str
    split: str


def named_files(paths: Sequence[str], splits: Iterable[tuple[str, str]], say: Say) -> tuple[NamedFile, ...]:
    """The files that `paths` and `splits` (name of a split, path) stand for, in that order, each once.

    Folders are searched for files of known suffixes; patterns are those that the shell would have expanded. A file
    that a split names is of that split alone, named again elsewhere or not. Raises `UsageError` where two splits name
    one file, and `InputError` for a folder or pattern without data.
    """
    of_split: dict[str, NamedFile] = {}
    for split, path in splits:
        for file in _files(path, say):
            known = of_split.setdefault(_identity(file), NamedFile(file, split))
            if known.split != split:
                raise UsageError(f"{file} is in two splits, {known.split} and {split}", hint="name it in one of them")
    found: dict[str, NamedFile] = {}
    for path in paths:
        for file in _files(path, say):
            identity = _identity(file)
            if identity in found:
                same = found[identity].path
                say(f"{file} is named twice{f', also as {same}' if same != file else ''}: it is read once")
            elif identity not in of_split:
                found[identity] = NamedFile(file, TRAIN)
            elif file == path:  # named itself, and not found in a folder
                say(f"{file} is of the split {of_split[identity].split} alone, though it is named besides")
    return (*found.values(), *of_split.values())


def _identity(file: str) -> str:
    return file if file == STDIN or storage.is_url(file) else os.path.realpath(file)


def _files(path: str, say: Say) -> list[str]:
    if path == STDIN:
        return [path]
    if storage.is_url(path):
        return _files_at_url(path, say)
    if os.path.isdir(path):
        return _known(path, _walk(path), say)
    if any(mark in path for mark in "*?[") and not os.path.lexists(path):
        found = []
        with suppress(ValueError):  # a NUL character
            found = sorted(file for file in glob.iglob(path, recursive=True) if not os.path.isdir(file))
        if not found:
            raise InputError(f"{path} matches no file", hint="check the pattern")
        return _known(path, found, say)
    return [path]


def _files_at_url(url: str, say: Say) -> list[str]:
    storage.open_storage(url)
    try:
        return _known(url, _visible(url, storage.list_files(url)), say) if storage.is_folder(url) else [url]
    except OSError as error:
        raise InputError(
            f"{url} cannot be listed: {error}", hint="check the address, and that you may read it"
        ) from None


def _visible(url: str, files: Iterable[str]) -> list[str]:
    """Those that `_walk` would find, in its order, where `url` is a folder; all of them where it is a pattern."""
    below = f"{url.rstrip('/')}/"
    parts = {file: file.removeprefix(below).split("/") for file in files}
    if not all(file.startswith(below) for file in parts):
        return list(parts)
    shown = [file for file in parts if not any(name.startswith(".") for name in parts[file])]
    return sorted(shown, key=lambda file: [*((1, name) for name in parts[file][:-1]), (0, parts[file][-1])])


def _walk(folder: str) -> Iterator[str]:
    """All visible files below a folder, sorted. Links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))


def _known(named: str, files: Iterable[str], say: Say) -> list[str]:
    """Those of `files` that hold records by their suffix; the others are counted and spoken of."""
    known: list[str] = []
    others: list[str] = []
    for file in files:
        name = file.rpartition("/")[2]
        if kind_of(file) and name not in _NO_DATA and (storage.is_url(file) or _is_regular(file)):
            known.append(file)
        else:
            others.append(name)
    if not known:
        there = f"none of its {len(others)} files has a known suffix" if others else "there is none"
        raise InputError(f"{named} holds no data file: {there}", hint=f"known are {', '.join(SUFFIXES)}")
    if others:
        kinds = Counter(name if name in _NO_DATA else Path(name).suffix or name for name in others).most_common()
        shown = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds[:_SHOWN])
        more = ", …" if len(kinds) > _SHOWN else ""
        say(f"{named}: files read: {len(known)}; left out, of other kinds: {len(others)} ({shown}{more})")
    return known


def _is_regular(path: str) -> bool:
    """Whether it may be read. Of a link that leads nowhere it is told when it is opened: its rows would be missing."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True

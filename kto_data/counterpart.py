"""A cache on this machine beside what lies at its URL, in parts: a cache may have more images than fit in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kto_data import storage
from kto_data.depot import Contents
from kto_data.errors import InputError
from kto_data.manifest import Shard, read_manifest
from kto_data.packing import IMAGES_NAME, is_packed
from kto_data.publish import OWN_NAMES
from kto_data.storage import FileState
from kto_data.unit import UNITS_NAME

_LARGE_BYTES = 1 << 23
_HELD = 10_000  # images of which it is known at a time what they are; more where a folder has more


class Origin(Protocol):
    """Where the bytes of a file of the cache are now."""

    @property
    def num_bytes(self) -> int:
        """Its length."""
        ...

    @property
    def sha256(self) -> str:
        """Of its bytes."""
        ...

    @property
    def takes_memory(self) -> bool:
        """Whether sending it does."""
        ...

    def put(self, url: str) -> FileState:
        """Have them at `url`; the state that the file has there. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class _Here:
    """A file on this machine."""

    path: Path

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def takes_memory(self) -> bool:
        return self.num_bytes >= _LARGE_BYTES

    def put(self, url: str) -> FileState:
        return storage.upload(str(self.path), url)


@dataclass(frozen=True, slots=True)
class _There:
    """A shard that a node has put to the storage."""

    shard: Shard
    url: str
    takes_memory = False  # none of it passes through this machine

    @property
    def num_bytes(self) -> int:
        return self.shard.bytes

    @property
    def sha256(self) -> str:
        return self.shard.sha256

    def put(self, url: str) -> FileState:
        return storage.file_state(url) if url == self.url else storage.copy(self.url, url)


@dataclass(frozen=True, slots=True)
class Part:
    """Some files of a cache, by their paths in it."""

    there: dict[str, FileState]  # what lies at the URL now
    wanted: dict[str, Origin]  # what is to lie there
    put: set[str]  # besides these, which nodes have put there


class Comparison:
    """A cache on this machine beside what lies at its URL, its manifest aside."""

    def __init__(self, work: Path, url: str, contents: Contents) -> None:
        self._work, self._url, self._contents = work, url, contents

    def parts(self) -> Iterator[Part]:
        """All of it, as it is when it is asked for: of images, those of a few folders are held at a time."""
        images = self._work / IMAGES_NAME
        for folders, there in listed(self._url, images):
            tops = [images / name for name in folders] or [path for path in self._work.iterdir() if path != images]
            files = (path for top in sorted(tops) for path in ([top] if top.is_file() else sorted(top.rglob("*"))))
            paths = {path.relative_to(self._work).as_posix(): path for path in files if path.is_file()}
            wanted: dict[str, Origin] = {name: _Here(path) for name, path in paths.items() if is_ours(name)}
            wanted |= {} if folders else self._shards()
            put = self._packed(there) - wanted.keys() if self._contents.shards else set()
            yield Part(there, wanted, put)

    def num_files(self, look: Callable[[Part], None]) -> int:
        """How many files the cache has; each part is shown to `look`, so that the URL is listed once for both. Raises
        `InputError` where an image that a node has put there is nowhere."""
        number = num_packed = 0
        for part in self.parts():
            look(part)
            number += len(part.wanted) + len(part.put)
            num_packed += len(self._packed(part.wanted)) + len(part.put)
        gone = self._contents.images.counts().files - num_packed if self._contents.shards else 0
        if gone:
            raise InputError(f"{gone:,} packed images have gone from {self._url}/{IMAGES_NAME}", hint="run again")
        return number

    def _shards(self) -> dict[str, Origin]:
        """The shards that nodes have put to the storage."""
        if not self._contents.shards:
            return {}
        splits = read_manifest(self._work).splits.values()
        shards = {shard.path: shard for split in splits for shard in split.shards}
        return {name: _There(shards[name], at) for name, at in self._contents.shards.items()}

    def _packed(self, names: Iterable[str]) -> set[str]:
        """Those of some files that are packed images of the cache."""
        start = f"{IMAGES_NAME}/"
        found = self._contents.images.among(name.removeprefix(start) for name in names if name.startswith(start))
        return {start + name for name in found}


def listed(url: str, here: Path | None = None) -> Iterator[tuple[list[str], dict[str, FileState]]]:
    """All files at a URL, by their paths from there: first those that are not in a folder of `images`, then those that
    are, some folders at a time, with the names of the folders. Those of the folder `here` are named too."""
    there, tops = storage.list_folder(url)
    folders = list[str]()
    for top in tops:
        if top == IMAGES_NAME:
            loose, folders = storage.list_folder(storage.join(url, top))
            there |= {f"{top}/{name}": state for name, state in loose.items()}
        else:
            there |= _below(url, top)
    yield [], there
    ours = _num_files(here)
    every = sorted({*folders, *ours})
    number = 1  # folders at a time: since hashes spread evenly, the first ones tell what is in each
    while every:
        some, every = every[:number], every[number:]
        found = storage.at_once(lambda name: _below(url, f"{IMAGES_NAME}/{name}"), some)
        yield some, {name: state for each in found for name, state in each.items()}
        most = max(1, *map(len, found), *(ours.get(name, 0) for name in some))
        number = max(1, min(storage.REQUESTS_AT_ONCE, _HELD // most))


def _num_files(folder: Path | None) -> dict[str, int]:
    """How many files are in each folder of a folder."""
    if folder is None or not folder.is_dir():
        return {}
    return {entry.name: len(os.listdir(entry)) for entry in os.scandir(folder) if entry.is_dir()}


def _below(url: str, folder: str) -> dict[str, FileState]:
    found = storage.list_states(storage.join(url, folder))
    return {f"{folder}/{name}": state for name, state in found.items()}


def is_ours(name: str) -> bool:
    """Whether a file may belong to a cache at a URL, its manifest aside. What is left for the next run stays here."""
    top, _, rest = name.partition("/")
    return is_packed(rest) if top == IMAGES_NAME else top in OWN_NAMES and top != UNITS_NAME

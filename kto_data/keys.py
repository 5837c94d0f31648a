"""What the first pass learns of a chunk: numbers that tell which of its samples say the same, or show the same.

    Chunk ─▶ Keys ─▶ a file by the hash of the chunk's lines ─▶ Keys

Lines that cannot be trained on have no keys. Keys lie beside the units of a cache, so that a run on data that has not
changed neither parses it again nor reads its images.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import xxhash

from kto_data import __version__, depot, image_file
from kto_data.check import CheckSettings, LineChecker
from kto_data.chunk import Chunk
from kto_data.clean import Gate
from kto_data.column import Column, Kind
from kto_data.digest import SampleDigest, fresh_file_digest
from kto_data.formats import Layout
from kto_data.noting import describe
from kto_data.storage import FileState
from kto_data.unit import NOT_OURS, UNITS_NAME, content_key, keep_record
from kto_data.unread import refuse_unread, unread

_IMAGES_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class KeyTask:
    """One chunk of the first pass."""

    chunk: Chunk
    layout: Layout
    folder: Path  # of the cache that is being made
    caches: tuple[Path, ...] = ()  # folders of caches, finished or not, where the keys may lie already
    url: str = ""  # of the cache, where it is to lie at one


class Keys:
    """The samples of one chunk in columns, as `kto_data.split.Samples` has them; lines are counted from the chunk's
    first."""

    def __init__(self, name: str = "") -> None:
        self.name = name  # of the file that they are kept in; empty where they are not
        self.lines: array[int] = array("I")
        self.prompts: array[int] = array("Q")
        self.completions: array[int] = array("Q")
        self.labels: array[int] = array("B")
        self.sources: array[int] = array("I")
        self.images: array[int] = array("Q")
        self.image_lines: array[int] = array("I")

    def add(self, line: int, digest: SampleDigest, label: bool, source: str) -> None:
        """Note one sample."""
        self.lines.append(line)
        self.prompts.append(digest.prompt)
        self.completions.append(digest.completion)
        self.labels.append(label)
        self.sources.append(_source_key(source))

    def columns(self) -> tuple[array[int], ...]:
        """All columns, in the order that they are kept in."""
        return self.lines, self.prompts, self.completions, self.labels, self.sources, self.images, self.image_lines


class AllKeys:
    """The samples of all chunks, in the same columns; lines are counted through."""

    def __init__(self) -> None:
        self._columns = tuple(Column(cast(Kind, column.typecode)) for column in Keys().columns())

    def extend(self, keys: Keys, first_line: int) -> None:
        """Take in the samples of the next chunk, whose first line has the number `first_line`."""
        for mine, column in zip(self._columns, keys.columns(), strict=True):
            is_of_lines = column is keys.lines or column is keys.image_lines
            if is_of_lines and column:
                mine.extend((np.frombuffer(column, np.uint32) + np.uint32(first_line)).tobytes())
            else:
                mine.extend(column)

    def columns(self) -> tuple[memoryview[int], ...]:
        """All columns, once there are no more to come."""
        return tuple(column.view for column in self._columns)


@lru_cache(maxsize=4096)
def _source_key(source: str) -> int:
    return xxhash.xxh3_64_intdigest(source.encode()) & 0xFFFFFFFF


class _Image(NamedTuple):
    """What is in an image, and which file that was."""

    path: str  # as the record has it
    digest: int
    state: FileState


class KeyGatherer:
    """Gathers keys; make one a process."""

    def __init__(self, settings: CheckSettings) -> None:
        assert settings.image_root is not None
        self._settings = settings
        self._root = os.fspath(settings.image_root)
        self._gates: list[tuple[Layout, LineChecker, Gate]] = []
        self._image = lru_cache(maxsize=_IMAGES_REMEMBERED)(self._read_image)

    def gather(self, task: KeyTask) -> Keys:
        """The keys of a chunk. Raises `InputError` where they cannot be kept."""
        places: list[Callable[[str], bytes]] = [partial(_read_from, cache) for cache in task.caches]
        if task.url and task.caches:
            places.append(partial(depot.read_record, task.url))
        return self._gathered(task, places, partial(keep_record, task.folder))

    def gather_afar(self, task: KeyTask) -> Keys:
        """The same, kept at the cache's URL and not in the task's folder, which is on another machine."""
        places = [partial(depot.read_record, task.url)] if task.caches else []
        return self._gathered(task, places, partial(depot.put_record, task.url))

    def _gathered(
        self, task: KeyTask, places: Sequence[Callable[[str], bytes]], keep: Callable[[str, bytes], None]
    ) -> Keys:
        """The keys of a chunk, found at one of `places` or gathered anew, and kept."""
        budget = self._settings.budget
        first = ["keys", __version__, budget.min_pixels, budget.max_pixels, task.chunk.path, repr(task.layout)]
        name = f"keys-{content_key(first, task.chunk.lines())}"
        content = next(filter(None, (self._kept(name, read) for read in places)), None)
        if content is None:
            keys, images = self._gather_anew(task)
            if images is None:
                return keys
            content = _to_bytes(keys, images)
        keep(name, content)
        return _from_bytes(content, name)[0]

    def _kept(self, name: str, read: Callable[[str], bytes]) -> bytes | None:
        """What `read` gives by that name, where it is whole and its images are the same files."""
        try:
            content = read(name)
            _, images = _from_bytes(content, name)
            are_same = image_file.for_each(self._root, self._is_same, images)
            return content if all(are_same) else None
        except NOT_OURS:  # not there, or spoilt, or an image is gone
            return None

    def _gather_anew(self, task: KeyTask) -> tuple[Keys, list[_Image] | None]:
        """The keys of a chunk, and its images; None where one is at fault, for that may be mended meanwhile."""
        keys, images, has_faults = Keys(), dict[str, _Image](), False
        checker, gate = self._tools(task.layout)
        line = 0
        for block in task.chunk.blocks():
            checker.look_ahead(map(block.line, range(len(block))), task.chunk.path)
            sifted = gate.sift(block)
            doubtful = set(sifted.doubtful)
            place = 0  # in the columns
            sound = {path: None for paths in sifted.images.values() for path in paths}
            image_file.for_each(self._root, self._image, sound)
            for index in range(len(block)):
                paths: Iterable[str] = ()
                if index not in doubtful:
                    label, _, _, source = sifted.shapes[place]
                    digest = SampleDigest(sifted.prompts[place], sifted.completions[place])
                    keys.add(line, digest, label, source)
                    paths = sifted.images.get(place, ())
                    place += 1
                else:
                    checked = checker.check(block.line(index))
                    if not checked.is_trainable:
                        refuse_unread(checked, self._root)
                        has_faults |= checked.has_image_faults
                    for item in checked.samples if checked.is_trainable else ():
                        digest, _, shape = describe(item.record)
                        keys.add(line, digest, shape.label, shape.source)
                        paths = item.record.images  # a pair's two samples have the same
                for path in paths:
                    image = self._image(path)
                    if image is None:
                        has_faults = True
                    else:
                        images[path] = image
                        keys.images.append(image.digest)
                        keys.image_lines.append(line)
                line += 1
        return keys, None if has_faults else list(images.values())

    def _tools(self, layout: Layout) -> tuple[LineChecker, Gate]:
        for known, checker, gate in self._gates:
            if known == layout:
                return checker, gate
        checker = LineChecker(layout, self._settings)
        self._gates.append((layout, checker, Gate(checker)))
        return self._gates[-1][1:]

    def _read_image(self, path: str) -> _Image | None:
        place = image_file.place(self._root, path)
        try:
            # Before it is read, so that what changes meanwhile is read again.
            before = image_file.state(place)
            return _Image(path, fresh_file_digest(place), before)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:  # the image may be sound, and without it rows would be parted otherwise
            raise unread(place, error) from None

    def _is_same(self, image: _Image) -> bool:
        return bool(image.state.version) and image_file.state(image_file.place(self._root, image.path)) == image.state


def _read_from(cache: Path, name: str) -> bytes:
    return (cache / UNITS_NAME / name).read_bytes()


def _to_bytes(keys: Keys, images: Sequence[_Image]) -> bytes:
    head = {"sizes": [len(column) for column in keys.columns()], "images": images}
    return b"\n".join([json.dumps(head).encode(), b"".join(column.tobytes() for column in keys.columns())])


def _from_bytes(content: bytes, name: str) -> tuple[Keys, list[_Image]]:
    first, _, rest = content.partition(b"\n")
    head: dict[str, Any] = json.loads(first)
    keys = Keys(name)
    for column, size in zip(keys.columns(), head["sizes"], strict=True):
        length = size * column.itemsize
        column.frombytes(rest[:length])
        rest = rest[length:]
        if len(column) != size:
            raise ValueError("cut short")
    return keys, [_Image(path, digest, FileState(*state)) for path, digest, state in head["images"]]


_gatherer: KeyGatherer | None = None  # of this process


def start(settings: CheckSettings) -> None:
    """Make the gatherer of this process, before its first chunk."""
    global _gatherer
    _gatherer = KeyGatherer(settings)


def gather(task: KeyTask) -> Keys:
    """The keys of a chunk, by the gatherer that `start` made."""
    assert _gatherer is not None, "start() comes first"
    return _gatherer.gather(task)


def gather_afar(task: KeyTask) -> Keys:
    """The same, on a machine that does not see the task's folder."""
    assert _gatherer is not None, "start() comes first"
    return _gatherer.gather_afar(task)

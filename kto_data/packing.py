"""The images of a cache as files of its own, below `images/`: each once, whatever names it goes by.

    ImageRef ─▶ ab/abcdef…           a copy of the file, by the SHA-256 of its bytes
             └▶ ab/abcdef…-768x512   the same, scaled to that size where it was larger, and a copy where it was not

A file's name says what is in it, and a file with such a name is whole. So processes may write the same one at a time,
and what an earlier run has packed serves a later one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from kto_data import image_file, storage
from kto_data.blockwise import distinct, numbers_of, rows_among, space
from kto_data.choices import PackImages
from kto_data.column import Column
from kto_data.encode import ImageRef
from kto_data.errors import InputError
from kto_data.image import (
    DECODE_ERRORS,
    as_pixels,
    from_pixels,
    holds_our_pixels,
    is_larger,
    load_for_training,
    num_bytes_as_pixels,
)
from kto_data.manifest import PackedCounts
from kto_data.writing import write_whole, writing_to

IMAGES_NAME = "images"
"""The folder, inside that of a cache, of its images."""

_REMEMBERED = 100_000  # images whose place is remembered
_FOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{64}(-\d+x\d+)?")
_TEMPORARY = re.compile(rf"\.{_FILE.pattern}\.\d+\.tmp")
_ENTRY = np.dtype([("path", "<u8"), ("name", "<u8"), ("bytes", "<i8")])  # hashes of the two names, bytes of the file


class UndecodableError(InputError):
    """An image whose header is sound and whose pixels are not."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Which images of a shard are packed."""

    entries: np.ndarray = field(default_factory=lambda: np.empty(0, _ENTRY))  # distinct
    has_new: bool = False  # whether a file had to be made


class AllPacked:
    """Which images of a cache are packed: 24 bytes for each and each shard that names it, on disk where they are many.

    Fed shard by shard, then asked.
    """

    def __init__(self) -> None:
        self.has_new = False  # whether a file had to be made
        self._paths, self._names, self._num_bytes = Column("Q"), Column("Q"), Column("Q")

    def add(self, packed: Packed) -> None:
        """Take in the images of the next shard."""
        self.has_new |= packed.has_new
        for column, name in ((self._paths, "path"), (self._names, "name"), (self._num_bytes, "bytes")):
            column.extend(packed.entries[name].tobytes())

    def among(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths`, below `images/`, that are packed images of these."""
        known = [path for path in paths if is_packed(path)]
        keys = np.array([_key(os.path.basename(path)) for path in known], np.uint64)
        return {known[index] for rows, _ in rows_among(keys, self._distinct) for index in rows.tolist()}

    def counts(self) -> PackedCounts:
        """The counts as the manifest has them."""
        num_bytes, sizes = numbers_of(self._num_bytes.view), space(len(self._distinct))
        for rows, places in rows_among(numbers_of(self._names.view), self._distinct):
            sizes[places] = num_bytes[rows]
        num_paths = len(distinct(numbers_of(self._paths.view)))
        return PackedCounts(paths=num_paths, files=len(sizes), bytes=int(sizes.sum()))

    @cached_property
    def _distinct(self) -> NDArray[Any]:
        """The hashes of the names of all files, ascending."""
        return distinct(numbers_of(self._names.view))


_Place = Path | str
"""A cache: its folder, or its URL."""


def packed_name(ref: ImageRef, packing: PackImages) -> str:
    """The path of a packed image, below `images/`."""
    assert packing != "none"
    return f"{ref.sha256[:2]}/{_file_name(ref, packing)}"


def _file_name(ref: ImageRef, packing: PackImages) -> str:
    return f"{ref.sha256}-{ref.width}x{ref.height}" if packing == "resized" else ref.sha256


def _key(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass"))


class Packer:
    """Puts images below the `images/` of the cache that is being built. Make one a process."""

    def __init__(self, packing: PackImages, image_root: str) -> None:
        self._packing = packing
        self._root = image_root
        self._pack = lru_cache(_REMEMBERED)(self._pack_one)

    def pack(self, refs: Iterable[ImageRef], building: Path, caches: Sequence[Path]) -> Packed:
        """See to it that all are packed, in the folder `building` or in one of `caches` already.

        Raises `UndecodableError` for an image that must be scaled and cannot be, `InputError` where one cannot be read
        any more or the disk is full.
        """
        return self._pack_all(refs, building, tuple(dict.fromkeys([building, *caches])))

    def pack_to(self, url: str, refs: Iterable[ImageRef], *, anew: bool) -> Packed:
        """See to it that all are packed in the cache at a URL; `anew`: those too that are there already.

        Raises `UndecodableError` as `pack` does, `InputError` where one cannot be read any more, and OSError where the
        storage fails.
        """
        return self._pack_all(refs, url, () if anew else (url,))

    def _pack_all(self, refs: Iterable[ImageRef], target: _Place, places: tuple[_Place, ...]) -> Packed:
        refs = tuple(refs)
        # Images that are fetched are packed many at a time, but no file by two.
        distinct = {packed_name(ref, self._packing): ref for ref in refs}
        image_file.for_each(self._root, lambda ref: self._pack(ref, target, places), distinct.values())
        made = [(ref, *self._pack(ref, target, places)) for ref in refs]
        entries = {(_key(ref.path), _key(_file_name(ref, self._packing)), num_bytes) for ref, num_bytes, _ in made}
        return Packed(np.array(sorted(entries), _ENTRY), any(is_new for _, _, is_new in made))

    def _pack_one(self, ref: ImageRef, target: _Place, places: tuple[_Place, ...]) -> tuple[int, bool]:
        """Bytes of the packed file, and whether it was made just now. `places` are those where it may be already."""
        name = f"{IMAGES_NAME}/{packed_name(ref, self._packing)}"
        for place in places:
            if isinstance(place, str):
                num_bytes = _num_bytes_at(storage.join(place, name))
            else:
                num_bytes = self._whole_at(place / name, ref)
            if num_bytes:
                return num_bytes, False
        content = self._content(ref)
        if isinstance(target, str):
            storage.put(storage.join(target, name), content)
            return len(content), True
        path = target / name
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return len(content), True

    def _whole_at(self, path: Path, ref: ImageRef) -> int:
        """The length of the packed file where it is there, of the right length and of our making, else 0."""
        try:
            found = os.stat(path).st_size
            if self._packing == "resized" and found == num_bytes_as_pixels((ref.width, ref.height)):
                return found if holds_our_pixels(os.fspath(path)) else 0
            if storage.is_url(self._root):  # our copy is sooner read than the server asked
                return found if image_file.sha256(os.fspath(path)) == ref.sha256 else 0
            return found if found == os.stat(os.path.join(self._root, ref.path)).st_size else 0
        except OSError:
            return 0

    def _content(self, ref: ImageRef) -> bytes:
        path = image_file.place(self._root, ref.path)
        try:
            content = image_file.read_image(ref.path, self._root)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise InputError(f"the image {path} has changed while it was packed", hint="run `ktodata preprocess` again")
        if self._packing == "original":
            return content
        try:
            if not is_larger(content, (ref.width, ref.height)):
                return content
            return as_pixels(load_for_training(BytesIO(content), (ref.width, ref.height)))
        except DECODE_ERRORS as error:
            raise UndecodableError(f"{path} cannot be decoded: {error}") from None


def _num_bytes_at(url: str) -> int:
    """The length of the packed image at a URL, 0 where there is none. What is there under such a name was put there
    whole, and whoever trains on it looks at its bytes."""
    try:
        return storage.file_state(url).num_bytes
    except FileNotFoundError:
        return 0


def move_in(building: Path, cache: Path, packed: AllPacked) -> None:
    """Bring the packed images from `building` to `cache`, and remove from there those that nobody asks for any more.

    Files that are no packed images are somebody's, and stay. Raises `InputError` where the folder cannot be written to.
    """
    old, new = building / IMAGES_NAME, cache / IMAGES_NAME
    with writing_to(new):
        for paths in _packed_files(old):
            for path in packed.among(paths):
                target = new / path
                target.parent.mkdir(parents=True, exist_ok=True)
                (old / path).replace(target)
        for paths in _packed_files(new):
            for path in set(paths) - packed.among(paths):
                (new / path).unlink()
        for folder in [*new.glob("[0-9a-f][0-9a-f]"), new]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _packed_files(folder: Path) -> Iterator[list[str]]:
    """The packed images below an `images/`, and what killed processes left of some: paths below it, by folder."""
    for inner in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        names = os.listdir(inner)
        yield [f"{inner.name}/{name}" for name in names if _FILE.fullmatch(name) or _TEMPORARY.fullmatch(name)]


def is_packed(path: str) -> bool:
    """Whether a path below `images/` is that of a packed image."""
    folder, _, name = path.partition("/")
    return _FOLDER.fullmatch(folder) is not None and _FILE.fullmatch(name) is not None


def is_whole_file(path: Path, name: str) -> bool:
    """Whether the file at `path` is what `name`, that of a packed image, says."""
    content = path.read_bytes()
    try:
        pixels = from_pixels(content)
    except ValueError:
        return False
    if pixels is not None:
        return name.endswith(f"-{pixels.size[0]}x{pixels.size[1]}")
    return hashlib.sha256(content).hexdigest() == os.path.basename(name).partition("-")[0]


def holds_packed_alone(folder: Path) -> bool:
    """Whether all that is in a folder called `images` can have been packed: nothing of it is anybody else's."""
    return folder.is_dir() and all(_FOLDER.fullmatch(name) for name in os.listdir(folder))

"""A cache that lies at a URL, copied to this machine to be trained on: once, and each file checked.

manifest.json ─▶ a folder by its hash ─▶ shards by their SHA-256, images by their names ─▶ manifest.json, last
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kto_data import storage
from kto_data.errors import CacheError, InputError
from kto_data.manifest import MANIFEST_NAME, Manifest, parse_manifest, read_manifest_bytes
from kto_data.packing import IMAGES_NAME, is_whole_file, packed_name
from kto_data.shard import read_images, write_dataset_files
from kto_data.writing import write_whole, writing_to

_AT_ONCE = 8  # files; of a large one several parts are fetched together besides

IsWhole = Callable[[Path], bool]


def fetch_cache(url: str) -> Path:
    """A folder on this machine with the cache at `url`: what training reads of it.

    The same cache is copied once, by one process, while others that ask for it wait. A copy that was cut off is gone on
    with. Raises `CacheError` where no whole cache lies there, and `InputError` where it cannot be fetched.
    """
    content = read_manifest_bytes(url)
    manifest = parse_manifest(content, url)
    folder = storage.cache_home() / "caches" / hashlib.sha256(content).hexdigest()[:32]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        if not _is_fetched(folder, manifest):
            _fetch(url, folder, manifest)
            write_whole(folder / MANIFEST_NAME, content)
    return folder


def _is_fetched(folder: Path, manifest: Manifest) -> bool:
    """Whether the copy was finished, and its shards still have their lengths: somebody may have cleared space."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    try:
        is_whole = all((folder / shard.path).stat().st_size == shard.bytes for shard in shards)
    except OSError:
        return False
    return is_whole and (folder / MANIFEST_NAME).exists()


def _fetch(url: str, folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    _fetch_files(url, folder, {shard.path: shard.is_at for shard in shards})
    if manifest.packed is not None:
        packed = _packed_names(url, folder, manifest)
        _fetch_files(url, folder, {f"{IMAGES_NAME}/{name}": partial(is_whole_file, name=name) for name in packed})
    names = {name: [os.path.basename(shard.path) for shard in split.shards] for name, split in manifest.splits.items()}
    write_dataset_files(folder, names, manifest.fingerprint)


def _packed_names(url: str, folder: Path, manifest: Manifest) -> set[str]:
    """The packed images of the cache, by their paths below `images/`. Its shards name them: others may be there too, of
    a cache that is being made."""
    assert manifest.packed is not None
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    images = (image for shard in shards for image in read_images(folder / shard.path))
    names = {packed_name(image, manifest.pack_images) for image in images}
    if len(names) != manifest.packed.files:
        raise CacheError(
            f"the shards of {url} name {len(names):,} packed images, and its manifest {manifest.packed.files:,}",
            hint="run `ktodata preprocess` again",
        )
    return names


def _fetch_files(url: str, folder: Path, wanted: Mapping[str, IsWhole]) -> None:
    try:
        storage.at_once(lambda name: _fetch_file(url, folder, name, wanted[name]), wanted, _AT_ONCE)
    except OSError as error:
        raise InputError(
            f"cannot fetch {url}: {error.strerror or error}",
            hint=f"run the same command again: what has arrived is kept in {folder}",
        ) from None


def _fetch_file(url: str, folder: Path, name: str, is_whole: IsWhole) -> None:
    path = folder / name
    if path.exists() and is_whole(path):
        return
    part = path.with_name(f".{path.name}.part")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    storage.download(storage.join(url, name), str(part))
    if not is_whole(part):
        part.unlink()
        raise CacheError(
            f"{url}/{name} is not the file that the manifest says",
            hint="it was changed or cut: run `ktodata preprocess` again",
        )
    part.replace(path)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a copy against other processes of this machine; they wait."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

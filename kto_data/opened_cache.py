"""A cache that is looked at, in a folder or at a URL: of one at a URL the files are fetched that are asked for."""

from __future__ import annotations

import os
from pathlib import Path

from kto_data import storage
from kto_data.errors import CacheError
from kto_data.local_copy import local_copy
from kto_data.manifest import Manifest, Shard


def place_of(given: str) -> Path | str:
    """The folder or URL that names a cache; a folder where a URL means one. Raises `UsageError` where the protocol of
    the URL is unknown."""
    if not storage.is_url(given):
        return Path(given)
    storage.open_storage(given)
    local = storage.local_path(given)
    return given if local is None else Path(local)


def shard_file(cache: Path | str, shard: Shard) -> Path:
    """A shard of the cache at a folder or URL; of a URL a copy, its bytes checked, that goes when the process ends.

    Raises `CacheError` where it cannot be had.
    """
    if isinstance(cache, Path):
        return cache / shard.path
    try:
        copy = Path(local_copy(storage.join(cache, shard.path)).path)
    except OSError as error:
        raise CacheError(f"cannot read {cache}/{shard.path}: {error.strerror or error}") from None
    if not shard.is_at(copy):
        raise CacheError(
            f"{cache}/{shard.path} is not the file that the manifest says",
            hint="it was changed or cut: run `ktodata preprocess` again",
        )
    return copy


def recorded_image_root(cache: Path | str, manifest: Manifest) -> Path | str:
    """The image root that a manifest records: seen from its cache, so that the two can be moved together."""
    root = manifest.image_root
    if storage.is_url(root):
        return root
    if isinstance(cache, str) and not os.path.isabs(root):
        return storage.join(cache, root)
    return Path(os.path.realpath(cache), root)

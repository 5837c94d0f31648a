"""What the nodes of a cluster put to the URL of a cache themselves, so that they need to share no folder.

    shard  ─▶ URL/.building/SHA-256        which the store copies to its name when the cache is whole
    image  ─▶ URL/images/ab/abcdef…        under its name for good, which says what is in it
    record ─▶ URL/.units/KEY               last: where it is, there is its shard

Through the engine go counts and findings alone: the bytes of all nodes would have to wait for the one machine of the
command, and images would fill its memory. Each object is there whole or not at all, none is in the way of a cache that
lies there already, and two processes that do the same work put the same bytes to the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from kto_data import storage
from kto_data.errors import InputError
from kto_data.manifest import Shard
from kto_data.packing import AllPacked
from kto_data.unit import UNITS_NAME, Built, Unit, kept, to_bytes

_STAGED_NAME = ".building"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What of a whole cache may lie at its URL before the cache is sent there."""

    shards: Mapping[str, str] = field(default_factory=dict)  # path in the cache -> URL of the object that holds it
    images: AllPacked = field(default_factory=AllPacked)  # all that are packed, wherever they lie
    records: frozenset[str] = frozenset()  # names of the files in `.units` that are to stay for the next run


def is_ours(name: str) -> bool:
    """Whether an object at a URL, `name` seen from there, was put there by a node, and is no part of a cache."""
    return name.partition("/")[0] in (_STAGED_NAME, UNITS_NAME)


def is_record(name: str, contents: Contents) -> bool:
    """Whether it is a file that is to stay for the next run."""
    top, _, rest = name.partition("/")
    return top == UNITS_NAME and rest in contents.records


def read_record(url: str, name: str) -> bytes:
    """A file of `.units`. Raises OSError where it is not there, or the storage fails."""
    return storage.read_bytes(_record(url, name))


def put_record(url: str, name: str, content: bytes) -> None:
    """Leave a file in `.units`. Raises `InputError` where the storage fails."""
    with reaching(url):
        storage.put(_record(url, name), content)


def find(key: str, unit: Unit, image_root: str) -> Built | None:
    """What became of a unit with this key, its shard now where the unit wants it; None where it must be done again."""
    found = kept(key, lambda: read_record(unit.url, key), image_root)
    if found is None:
        return None
    built, split = found
    if built.shard is None:
        return built
    for at in (_staged(unit.url, built.shard), _published(unit.url, split, built.shard.path)):
        if _fetch(at, unit.folder / unit.name, built.shard):
            return replace(built, shard=built.shard.model_copy(update={"path": unit.name}), at=at)
    return None


def put(built: Built, unit: Unit) -> Built:
    """Put the shard, which is in the unit's folder, to where the command finds it, and leave a record of the unit.

    Raises `InputError` where the storage fails.
    """
    if built.shard is not None and built.at != _published(unit.url, unit.split, unit.name):
        staged = _staged(unit.url, built.shard)
        with reaching(unit.url):
            if not built.at:
                state = storage.upload(str(unit.folder / built.shard.path), staged)
                if state.num_bytes != built.shard.bytes:
                    raise OSError(f"of a shard {state.num_bytes:,} bytes have arrived")
            elif built.at != staged:  # of another place in the cache that is there, which another shard may take
                storage.copy(built.at, staged)
        built = replace(built, at=staged)
    put_record(unit.url, built.key, to_bytes(built, unit.split))
    return built


def _fetch(url: str, path: Path, shard: Shard) -> bool:
    """Whether the object at `url` is the shard; then it is at `path` too."""
    part = path.with_name(f".{path.name}.part")
    try:
        storage.download(url, str(part))
        if not shard.is_at(part):
            return False
        part.replace(path)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return True


def _record(url: str, name: str) -> str:
    return storage.join(url, f"{UNITS_NAME}/{name}")


def _staged(url: str, shard: Shard) -> str:
    return storage.join(url, f"{_STAGED_NAME}/{shard.sha256}")


def _published(url: str, split: str, name: str) -> str:
    return storage.join(url, f"{split}/{name}")


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Makes of a storage that fails an `InputError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {url}: {error.strerror or error}",
            hint="what was built and sent is kept: run the same command again once the storage answers",
        ) from None

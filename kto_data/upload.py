"""A cache made here, put to object storage: files first, each whole, and the manifest last.

    claim ─▶ the old manifest goes ─▶ files ─▶ manifest.json ─▶ claim goes

While the claim lies there, whoever comes second stops. From the first file that is replaced to the last there is no
manifest, and so no cache. What was sent is noted, so that a run that was cut off goes on where it was. What nodes of a
cluster have put there themselves (`depot`) is brought to its place by the storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kto_data import depot, storage
from kto_data.depot import Contents, reaching
from kto_data.errors import InputError, UsageError
from kto_data.filesystem import drop_unfinished
from kto_data.manifest import MANIFEST_NAME, Shard, read_manifest
from kto_data.packing import IMAGES_NAME, is_packed
from kto_data.publish import OWN_NAMES
from kto_data.storage import FileState
from kto_data.unit import UNITS_NAME
from kto_data.writing import write_whole

CLAIM_NAME = ".writing"
_CLAIM = "claim"  # beside the work folder: what our claim says
_SENT = "sent"  # the same: which files were sent, and their state there
_LARGE_BYTES = 1 << 23
_LARGE_AT_ONCE = 4  # of each some parts are held in memory while it is sent


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of an upload."""

    num_sent: int
    num_there: int  # that were there already

    @property
    def is_unchanged(self) -> bool:
        """Whether the cache was there already, just as it is."""
        return self.num_sent == 0


def work_folder(url: str) -> Path:
    """The folder on this machine where the cache for `url` is built; the next run for the same URL goes on there."""
    key = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    return storage.cache_home() / "outputs" / key / "cache"


@contextmanager
def claimed(url: str, work: Path) -> Iterator[None]:
    """Hold the cache at `url` against other runs, whatever machine they are on. `work` must be held already.

    A claim that a killed run has left is taken up by the next one in the same work folder. Raises `UsageError` where
    another run holds it, or something that is no cache lies there; `InputError` where the storage cannot be reached.
    """
    storage.open_storage(url)
    claim = storage.join(url, CLAIM_NAME)
    content = _our_claim(work)
    with reaching(url):
        _refuse_others(url)
        try:
            storage.create(claim, content)
        except FileExistsError:
            raise UsageError(
                f"another run is writing {url}{_written_in(claim)}",
                hint=f"wait for it to end; if it was killed and its machine is gone, remove {claim}",
            ) from None
    with suppress(OSError):  # of those who may write, not all may list: then a rule of the bucket has to clear it
        drop_unfinished(url)
    try:
        yield
    finally:
        with suppress(OSError):  # then the next run from here takes it up
            if storage.read_bytes(claim) == content:  # or somebody has removed ours, and another run holds the place
                storage.remove(claim)


def upload_cache(work: Path, url: str, contents: Contents) -> Uploaded:
    """Make the cache at `url`, which is `claimed`, the one whose manifest is in `work`: each of its files is there too,
    or `contents` says where it is.

    Raises `InputError` where the storage fails or a file has gone from there, and `UsageError` where another run has
    written there all the same.
    """
    with reaching(url):
        there = storage.list_states(url)
        wanted = _origins(work, contents)
        images = _images_put(url, contents, there, wanted)
        manifest = (work / MANIFEST_NAME).read_bytes()
        manifest_url = storage.join(url, MANIFEST_NAME)
        before = storage.read_bytes(manifest_url) if MANIFEST_NAME in there else None
        sent = _Sent(work.with_name(_SENT), url, is_published=before == manifest)
        missing = [name for name, origin in wanted.items() if not sent.is_there(name, origin, there.get(name))]
        is_unchanged = before == manifest and not missing
        if not is_unchanged:
            if before is not None:
                storage.remove(manifest_url)
            large = [name for name in missing if wanted[name].takes_memory]
            small = [name for name in missing if not wanted[name].takes_memory]
            for names, most in ((large, _LARGE_AT_ONCE), (small, storage.REQUESTS_AT_ONCE)):
                storage.at_once(lambda name: sent.send(name, wanted[name]), names, most)
            _remove(url, [name for name in there if _is_ours(name) and name not in wanted and name not in images])
            try:
                storage.create(manifest_url, manifest)
            except FileExistsError:
                raise UsageError(
                    f"another run has published {url} meanwhile", hint="give --output another place, or run again"
                ) from None
        _remove(url, [name for name in there if depot.is_ours(name) and not depot.is_record(name, contents)])
        return Uploaded(0 if is_unchanged else len(missing) + 1, len(wanted) + len(images) - len(missing))


class _Origin(Protocol):
    """Where the bytes of a file of the cache are now."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    @property
    def takes_memory(self) -> bool: ...

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


class _Sent:
    """Which files of a cache were sent, kept in a file: a line is written once its file is there.

    `is_published`: the manifest of these very files is there, so that what others have sent is taken for theirs.
    """

    def __init__(self, path: Path, url: str, *, is_published: bool) -> None:
        self._path, self._url, self._is_published = path, url, is_published
        self._known: dict[str, tuple[str, FileState]] = {}
        with suppress(FileNotFoundError):
            for line in path.read_text().splitlines():
                with suppress(ValueError, TypeError):  # the last one may be cut
                    name, sha256, *state = json.loads(line)
                    self._known[name] = sha256, FileState(*state)

    def is_there(self, name: str, origin: _Origin, state: FileState | None) -> bool:
        """Whether the file is at its place with the bytes of `origin`, and untouched since we put it there."""
        if state is None or state.num_bytes != origin.num_bytes:
            return False
        if name not in self._known:
            return self._is_published
        sha256, known = self._known[name]
        return bool(state.version) and state == known and sha256 == origin.sha256

    def send(self, name: str, origin: _Origin) -> None:
        """Put the file to its place, and note it."""
        state = origin.put(storage.join(self._url, name))
        if state.num_bytes != origin.num_bytes:
            raise OSError(f"of {name} {state.num_bytes:,} bytes have arrived")
        line = json.dumps([name, origin.sha256, *state]).encode() + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            file.write(line)  # one write, so that lines of several threads do not mix


def _origins(work: Path, contents: Contents) -> dict[str, _Origin]:
    """The files of the cache but its manifest, and images that nodes have put there, by their paths in it."""
    paths = {path.relative_to(work).as_posix(): path for path in sorted(work.rglob("*")) if path.is_file()}
    origins: dict[str, _Origin] = {name: _Here(path) for name, path in paths.items() if _is_ours(name)}
    if contents.shards:
        splits = read_manifest(work).splits.values()
        shards = {shard.path: shard for split in splits for shard in split.shards}
        origins |= {name: _There(shards[name], at) for name, at in contents.shards.items()}
    return origins


def _images_put(url: str, contents: Contents, there: Iterable[str], origins: Mapping[str, _Origin]) -> set[str]:
    """The packed images that nodes have put there, by their paths in the cache.

    Raises `InputError` where one is nowhere.
    """
    if not contents.shards:
        return set()
    start = f"{IMAGES_NAME}/"
    names = {name.removeprefix(start) for name in (*there, *origins) if name.startswith(start)}
    found = contents.images.among(names)
    if gone := contents.images.counts().files - len(found):
        raise InputError(f"{gone:,} packed images have gone from {url}/{IMAGES_NAME}", hint="run again")
    return {start + name for name in found}.difference(origins)


def _is_ours(name: str) -> bool:
    """Whether a file may belong to a cache at a URL, its manifest aside. What is left for the next run stays here."""
    top, _, rest = name.partition("/")
    return is_packed(rest) if top == IMAGES_NAME else top in OWN_NAMES and top != UNITS_NAME


def _remove(url: str, names: Iterable[str]) -> None:
    storage.at_once(lambda name: storage.remove(storage.join(url, name)), names)


def _refuse_others(url: str) -> None:
    names = storage.list_states(url)
    others = sorted(name for name in names if not (_is_ours(name) or depot.is_ours(name) or name == CLAIM_NAME))
    if others and MANIFEST_NAME not in names:
        raise UsageError(
            f"{url} is not empty and holds no cache (for one, {others[0]!r})", hint="give --output a new place"
        )


def _written_in(claim: str) -> str:
    """What the claim of another run says of it; nothing where it has just ended."""
    try:
        return f": {storage.read_bytes(claim).decode(errors='replace').strip()}"
    except FileNotFoundError:
        return ""


def _our_claim(work: Path) -> bytes:
    path = work.with_name(_CLAIM)
    if not path.exists():
        who = f"{socket.gethostname()}, process {os.getpid()}, in {work}, {secrets.token_hex(8)}"
        write_whole(path, f"{who}\n".encode())
    return path.read_bytes()

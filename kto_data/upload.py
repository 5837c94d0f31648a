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
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kto_data import depot, storage
from kto_data.blockwise import distinct, is_among, numbers_of
from kto_data.column import Column
from kto_data.counterpart import Comparison, Origin, Part, is_ours, listed
from kto_data.depot import Contents, reaching
from kto_data.errors import UsageError
from kto_data.filesystem import drop_unfinished
from kto_data.manifest import MANIFEST_NAME
from kto_data.storage import FileState
from kto_data.writing import write_whole

CLAIM_NAME = ".writing"
_CLAIM = "claim"  # beside the work folder: what our claim says
_SENT = "sent"  # the same: which files were sent, and their state there
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
        comparison = Comparison(work, url, contents)
        manifest = (work / MANIFEST_NAME).read_bytes()
        manifest_url = storage.join(url, MANIFEST_NAME)
        before = storage.read_bytes(manifest_url) if storage.is_file(manifest_url) else None
        sent = _Sent(work.with_name(_SENT), url, is_published=before == manifest)
        is_there = before == manifest

        def look(part: Part) -> None:
            nonlocal is_there
            is_there = is_there and not sent.missing(part)

        num_files = comparison.num_files(look)
        if is_there:
            _clear(url, contents)
            return Uploaded(0, num_files)
        if before is not None:
            storage.remove(manifest_url)
        num_missing = sum(_bring_up_to_date(url, part, sent) for part in comparison.parts())
        try:
            storage.create(manifest_url, manifest)
        except FileExistsError:
            raise UsageError(
                f"another run has published {url} meanwhile", hint="give --output another place, or run again"
            ) from None
        _clear(url, contents)
        return Uploaded(num_missing + 1, num_files - num_missing)


def _bring_up_to_date(url: str, part: Part, sent: _Sent) -> int:
    """Send what is missing of a part of a cache, and remove what is no part of it; how many files were sent."""
    missing = sent.missing(part)
    large = [name for name in missing if part.wanted[name].takes_memory]
    small = [name for name in missing if not part.wanted[name].takes_memory]
    for names, most in ((large, _LARGE_AT_ONCE), (small, storage.REQUESTS_AT_ONCE)):
        storage.at_once(lambda name: sent.send(name, part.wanted[name]), names, most)
    _remove(url, [name for name in part.there if is_ours(name) and name not in part.wanted and name not in part.put])
    return len(missing)


def _clear(url: str, contents: Contents) -> None:
    """Remove what nodes have put there that is neither a part of the cache nor for the next run."""
    _, others = next(listed(url))
    _remove(url, [name for name in others if depot.is_ours(name) and not depot.is_record(name, contents)])


class _Sent:
    """Which files of a cache were sent, kept in a file: a line is written once its file is there.

    `is_published`: the manifest of these very files is there, so that what others have sent is taken for theirs.
    """

    def __init__(self, path: Path, url: str, *, is_published: bool) -> None:
        self._path, self._url, self._is_published = path, url, is_published
        names, lines = Column("Q"), Column("Q")  # hashes: a cache may have millions of images
        with suppress(FileNotFoundError), open(path, "rb") as file:
            for line in file:
                with suppress(ValueError, TypeError, IndexError):  # the last one may be cut
                    names.extend(array("Q", [_hash(json.dumps(json.loads(line)[0]).encode())]))
                    lines.extend(array("Q", [_hash(line)]))
        self._names, self._lines = distinct(numbers_of(names.view)), distinct(numbers_of(lines.view))

    def is_there(self, name: str, origin: Origin, state: FileState | None) -> bool:
        """Whether the file is at its place with the bytes of `origin`, and untouched since we put it there."""
        if state is None or state.num_bytes != origin.num_bytes:
            return False
        if not is_among(_hash(json.dumps(name).encode()), self._names):
            return self._is_published
        return bool(state.version) and is_among(_hash(_line(name, origin, state)), self._lines)

    def missing(self, part: Part) -> list[str]:
        """What of a part of the cache is not."""
        return [name for name, origin in part.wanted.items() if not self.is_there(name, origin, part.there.get(name))]

    def send(self, name: str, origin: Origin) -> None:
        """Put the file to its place, and note it."""
        state = origin.put(storage.join(self._url, name))
        if state.num_bytes != origin.num_bytes:
            raise OSError(f"of {name} {state.num_bytes:,} bytes have arrived")
        with open(self._path, "ab", buffering=0) as file:
            file.write(_line(name, origin, state))  # one write, so that lines of several threads do not mix


def _line(name: str, origin: Origin, state: FileState) -> bytes:
    return json.dumps([name, origin.sha256, *state]).encode() + b"\n"


def _hash(content: bytes) -> int:
    return xxhash.xxh3_64_intdigest(content)


def _remove(url: str, names: Iterable[str]) -> None:
    storage.at_once(lambda name: storage.remove(storage.join(url, name)), names)


def _refuse_others(url: str) -> None:
    if storage.is_file(storage.join(url, MANIFEST_NAME)):
        return
    for _, names in listed(url):
        others = sorted(name for name in names if not (is_ours(name) or depot.is_ours(name) or name == CLAIM_NAME))
        if others:
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

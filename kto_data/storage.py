"""Places that are no local path: `s3://…`, `https://…`, whatever fsspec knows.

Nothing is opened here that the user did not name, or that does not lie under a folder that the user named: what data
says is a path below that folder, or nothing.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import unquote

from kto_data.filesystem import file_info, in_parts, protocol_of, speaking, url_of

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_COPY_BYTES = 1 << 20
_HEADER_BYTES = 1 << 16  # a header comes with one request
_WHOLE_BYTES = 1 << 23  # and so does a whole file, as a rule
REQUESTS_AT_ONCE = 16  # a request waits much longer than it works
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Last-Modified", "mtime", "created")
"""Where implementations say what changes with a file; the first that one knows counts."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class FileState(NamedTuple):
    """What of a file tells that it is still the same, without reading it."""

    num_bytes: int
    version: str  # empty where nobody says it: then nothing is told


def cache_home() -> Path:
    """The folder on this machine for what can be had again: `$XDG_CACHE_HOME/ktodata`, or `~/.cache/ktodata`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ktodata")


def is_url(path: str) -> bool:
    """Whether `path`, which the user named, is a URL."""
    return _URL.match(path) is not None


def open_storage(url: str) -> None:
    """Raises `UsageError` where the protocol of `url` is unknown or its package is not installed; nothing is read."""
    with suppress(OSError), speaking(url):  # a server that does not answer is told of where it is needed
        return


def is_shared(url: str) -> bool:
    """Whether what lies at `url` is the same for all machines that may reach it."""
    return protocol_of(url) not in ("file", "local", "memory")


def local_path(url: str) -> str | None:
    """The path on this machine that a `file://` URL means; None for other URLs."""
    if not _is_local(url):
        return None
    with speaking(url) as (_, path):
        return str(path)


def copy_to(file: IO[bytes], url: str) -> FileState:
    """Write the bytes of what is at `url` to `file`; the state that it has. Raises OSError where it cannot be read, or
    changes meanwhile."""
    with speaking(url) as (system, remote):
        before = _state(file_info(system, remote, url))
        with system.open(remote, "rb") as source:
            while data := source.read(_COPY_BYTES):
                file.write(data)
        if _state(file_info(system, remote, url)) != before:
            raise OSError("it changed while it was read")
        return before


def read_range(url: str, start: int, stop: int, state: FileState) -> bytes:
    """The bytes `start` to `stop` of the file at `url`. Raises OSError where they cannot be read, or the file is not in
    `state`."""
    with speaking(url) as (system, path):
        if _state(file_info(system, path, url)) != state:
            raise OSError("it is not any more what it was")
        data = bytes(system.cat_file(path, start=start, end=stop))
        if len(data) != stop - start:
            raise OSError(f"the server gives {len(data):,} bytes where {stop - start:,} were asked for")
        return data


def list_files(url: str) -> list[str]:
    """The URLs of the files that match the pattern `url`, or of all below it where it is a folder; none where it is
    neither. Sorted. A `?` is no pattern: it begins the query of a URL. Raises OSError where it cannot be read."""
    with speaking(url) as (system, path):
        is_pattern = "*" in path or "[" in path
        # A part of the path before the first sign of a pattern is listed, and all below it compared.
        found = system.glob(path) if is_pattern else system.find(path) if system.isdir(path) else []
        return sorted(url_of(system, name, url) for name in found if not is_pattern or system.isfile(name))


def is_folder(url: str) -> bool:
    """Whether `url` is a folder, or a pattern of files. Of web servers neither can be told, and it never is."""
    if protocol_of(url) in ("http", "https"):
        return False
    with speaking(url) as (system, path):
        return "*" in path or bool(system.isdir(path))


def is_file(url: str) -> bool:
    """Whether a file is at `url`. Raises OSError where that cannot be told."""
    try:
        file_state(url)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def below(root: str, given: str) -> str | None:
    """The URL of `given`, a path that data names, below the folder `root`; None where it would be outside of it."""
    # Servers read %2e%2e as `..`.
    plain = unquote(given).replace("\\", "/")
    if plain.startswith("/") or ".." in plain.split("/"):
        normal = posixpath.normpath(plain)
        if normal.startswith(("/", "../")) or normal == "..":
            return None
        given = normal
    elif "//" in given or "." in given.split("/"):
        given = posixpath.normpath(given)
    return f"{root.rstrip('/')}/{given}"


def join(folder: str, path: str) -> str:
    """The URL of `path`, as our own files have it, seen from the folder `folder`; a URL is itself."""
    if is_url(path):
        return path
    protocol, _, rest = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(rest, path))}"


@contextmanager
def open_file(url: str, *, whole: bool = False) -> Iterator[tuple[IO[bytes], int]]:
    """The file at `url` and its size; where it is not to be read `whole`, by small parts if the server can.

    Raises OSError where it cannot be read: `FileNotFoundError` where it is not there, `IsADirectoryError` where it is a
    folder.
    """
    with speaking(url) as (system, path):
        info = file_info(system, path, url)
        if info.get("size") is None:
            raise OSError("the server does not say how large it is")
        num_bytes, block_bytes = int(info["size"]), _WHOLE_BYTES if whole else _HEADER_BYTES
        with system.open(path, "rb", block_size=block_bytes, size=num_bytes) as file:  # which would ask for it again
            yield file, num_bytes


def file_state(url: str) -> FileState:
    """The state of the file at `url`. Raises OSError as `open_file` does."""
    with speaking(url) as (system, path):
        return _state(file_info(system, path, url))


def read_bytes(url: str) -> bytes:
    """A small file, whole. Raises OSError where it cannot be read: `FileNotFoundError` where it is not there."""
    with speaking(url) as (system, path):
        return bytes(system.cat_file(path))


def list_states(folder: str) -> dict[str, FileState]:
    """All files below the folder at a URL, by their paths seen from it; none where it is not there. Raises OSError."""
    with speaking(folder.rstrip("/")) as (system, path):
        try:
            found = system.find(path, detail=True)
        except FileNotFoundError:
            return {}
        start = len(path) + 1
        return {name[start:]: _state(info) for name, info in found.items() if name.startswith(f"{path}/")}


def list_folder(folder: str) -> tuple[dict[str, FileState], list[str]]:
    """The files right in the folder at a URL, and the folders in it, by their names; none where it is not there. Raises
    OSError."""
    with speaking(folder.rstrip("/")) as (system, path):
        try:
            found = {posixpath.basename(info["name"].rstrip("/")): info for info in system.ls(path, detail=True)}
        except FileNotFoundError:
            return {}, []
        folders = [name for name, info in found.items() if info["type"] == "directory"]
        return {name: _state(info) for name, info in found.items() if name not in folders}, folders


def upload(path: str, url: str) -> FileState:
    """Put the file at `path` to `url`, in the place of what is there; the state that it has then.

    It is there whole or not at all. (A file opened for writing would not be: what was written before an error would
    stay.) Raises OSError.
    """
    with speaking(url) as (system, remote):
        if _is_local(url):
            system.makedirs(posixpath.dirname(remote), exist_ok=True)
        system.put_file(path, remote, **in_parts(url, os.path.getsize(path)))
        system.invalidate_cache()
        return _state(system.info(remote))


def download(url: str, path: str) -> None:
    """The file at `url` to `path`, which on an error may hold a part of it. Raises OSError."""
    with speaking(url) as (system, remote):
        system.get_file(remote, path)


def put(url: str, content: bytes) -> None:
    """Put `content` to `url`, in the place of what is there: whole or not at all, if that is object storage. Raises
    OSError."""
    with speaking(url) as (system, path):
        if _is_local(url):
            system.makedirs(posixpath.dirname(path), exist_ok=True)
        system.pipe_file(path, content)


def copy(url: str, other: str) -> FileState:
    """Have the store copy the file at `url` to `other`, in the place of what is there; the state that it has then.

    It is there whole or not at all, and no byte of it passes through this machine. Raises OSError.
    """
    with speaking(url) as (system, path):
        target = system._strip_protocol(other)
        if _is_local(url):
            system.makedirs(posixpath.dirname(target), exist_ok=True)
        system.cp_file(path, target)
        system.invalidate_cache()
        return _state(system.info(target))


def create(url: str, content: bytes) -> None:
    """Put `content` to `url` if nothing is there, as one step where the store can: of two that try, one succeeds.

    Raises `FileExistsError` where another content is there, OSError where it cannot be written.
    """
    with speaking(url) as (system, path):
        try:
            if system.exists(path):  # stores that do not know the condition would write over it
                raise FileExistsError(url)
            if _is_local(url):
                system.makedirs(posixpath.dirname(path), exist_ok=True)
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            # An answer that was lost on its way makes the implementation ask again, and then meet its own file. That of
            # somebody else may have gone by now.
            with suppress(FileNotFoundError):
                if system.cat_file(path) == content:
                    return
            raise FileExistsError(url) from None


def remove(url: str) -> None:
    """Remove the file at `url`, if it is there. Raises OSError."""
    with speaking(url) as (system, path):
        try:
            system.rm_file(path)
        except FileNotFoundError:
            return


def at_once(call: Callable[[Item], Answer], items: Iterable[Item], most: int = REQUESTS_AT_ONCE) -> list[Answer]:
    """`call(item)` for each of `items`, `most` of them at a time, the answers in the order of the items.

    The first exception is raised here, and nothing new is begun then.
    """
    with ThreadPoolExecutor(most) as pool:
        try:
            return list(pool.map(call, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_local(url: str) -> bool:
    return protocol_of(url) in ("file", "local")


def _state(info: dict[str, Any]) -> FileState:
    version = next((str(info[key]).strip('"') for key in _VERSION_KEYS if info.get(key)), "")
    return FileState(int(info.get("size") or 0), version)

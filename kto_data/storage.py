"""Places that are no local path: `s3://…`, `https://…`, whatever fsspec knows. The only home of fsspec.

Nothing is opened here that the user did not name, or that does not lie under a folder that the user named: what data
says is a path below that folder, or nothing.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

from kto_data.errors import UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    "hf": "huggingface_hub",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
"""What has to be installed for a protocol, besides fsspec."""
_COPY_BYTES = 1 << 20
_IMAGE_BLOCK_BYTES = 1 << 16  # a header comes with one request


def is_url(path: str) -> bool:
    """Whether `path`, which the user named, is a URL."""
    return _URL.match(path) is not None


def open_storage(url: str) -> None:
    """Raises `UsageError` where the protocol of `url` is unknown or its package is not installed; nothing is read."""
    _system(_protocol(url))


def local_path(url: str) -> str | None:
    """The path on this machine that a `file://` URL means; None for other URLs."""
    return str(_system("file")._strip_protocol(url)) if _protocol(url) in ("file", "local") else None


@cache  # nothing is fetched twice
def local_copy(url: str) -> str:
    """A file on this machine with the bytes of the file at `url`: itself, or a copy that goes when the process ends.

    Files are read more than once, from the middle, and in several processes. Raises OSError where it cannot be read.
    """
    path = local_path(url)
    if path is not None:
        return path
    with _speaking(url) as (system, remote), tempfile.NamedTemporaryFile(dir=_copies().name, delete=False) as copy:
        with system.open(remote, "rb") as file:
            while data := file.read(_COPY_BYTES):
                copy.write(data)
        return copy.name


def list_files(url: str) -> list[str]:
    """The URLs of the files that match the pattern `url`, or of all below it where it is a folder; none where it is
    neither. Sorted. A `?` is no pattern: it begins the query of a URL. Raises OSError where it cannot be read."""
    with _speaking(url) as (system, path):
        is_pattern = "*" in path or "[" in path
        # A part of the path before the first sign of a pattern is listed, and all below it compared.
        found = system.glob(path) if is_pattern else system.find(path) if system.isdir(path) else []
        return sorted(system.unstrip_protocol(name) for name in found if not is_pattern or system.isfile(name))


def is_folder(url: str) -> bool:
    """Whether `url` is a folder, or a pattern of files. Of web servers neither can be told, and it never is."""
    if _protocol(url) in ("http", "https"):
        return False
    with _speaking(url) as (system, path):
        return "*" in path or bool(system.isdir(path))


def below(root: str, given: str) -> str | None:
    """The URL of `given`, a path that data names, below the folder `root`; None where it would be outside of it."""
    # Servers read %2e%2e as `..`.
    plain = unquote(given).replace("\\", "/")
    if plain.startswith("/") or ".." in plain.split("/"):
        normal = posixpath.normpath(plain)
        if normal.startswith(("/", "../")) or normal == "..":
            return None
        given = normal
    return f"{root.rstrip('/')}/{given}"


@contextmanager
def open_file(url: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file at `url`, read by parts where the server can, and its size. Raises OSError where it cannot be read:
    `FileNotFoundError` where it is not there, `IsADirectoryError` where it is a folder."""
    with _speaking(url) as (system, path):
        info = system.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(url)
        num_bytes = info.get("size")
        if num_bytes is None:
            raise OSError("the server does not say how large it is")
        with system.open(path, "rb", block_size=_IMAGE_BLOCK_BYTES) as file:
            yield file, int(num_bytes)


@cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ktodata-")


def _protocol(url: str) -> str:
    return url.partition("://")[0].lower()


@cache
def _system(protocol: str) -> AbstractFileSystem:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except ImportError:
        package = _PACKAGES.get(protocol, f"that fsspec wants for {protocol}://")
        raise UsageError(
            f"{protocol}:// needs the package '{package}', which is not installed", hint=f"pip install {package}"
        ) from None
    except ValueError:
        raise UsageError(
            f"unknown protocol {protocol}://", hint="known are s3://, gs://, https:// and others of fsspec"
        ) from None


@contextmanager
def _speaking(url: str) -> Iterator[tuple[AbstractFileSystem, Any]]:
    system = _system(_protocol(url))
    try:
        yield system, system._strip_protocol(url)
    except OSError:
        raise
    except Exception as error:  # each implementation has exceptions of its own, and not all of them are OSErrors
        raise OSError(f"{type(error).__name__}: {error}") from error

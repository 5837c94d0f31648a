"""The file system that a URL means, its exceptions made one. The only home of fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kto_data.errors import UsageError, first_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

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


def protocol_of(url: str) -> str:
    """What stands before `://`."""
    return url.partition("://")[0].lower()


@contextmanager
def speaking(url: str) -> Iterator[tuple[AbstractFileSystem, Any]]:
    """The file system of `url`, and what it calls the place.

    Whatever is raised inside comes out as an OSError. Raises `UsageError` where there is no such file system.
    """
    try:
        system = _system(url)
        yield system, system._strip_protocol(url)
    except (OSError, UsageError):
        raise
    except Exception as error:  # each implementation has exceptions of its own, and not all of them are OSErrors
        raise OSError(f"{type(error).__name__}: {error}") from error


def file_info(system: AbstractFileSystem, path: str, url: str) -> dict[str, Any]:
    """What the file system says of the file at `url`, which it calls `path`. Raises `IsADirectoryError` of a folder."""
    info: dict[str, Any] = system.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(url)
    return info


def url_of(system: AbstractFileSystem, name: str, near: str) -> str:
    """The URL of what a file system calls `name`, given the URL of something else there."""
    path = system._strip_protocol(near)
    # A server is in the URL, and not in the names of what lies on it.
    for spelling in (near, near.rstrip("/")):
        if path and spelling.endswith(path):
            return f"{spelling.removesuffix(path)}{name}"
    return str(system.unstrip_protocol(name))


def _system(url: str) -> AbstractFileSystem:
    import fsspec

    protocol = protocol_of(url)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError:
        package = _PACKAGES.get(protocol, f"that fsspec wants for {protocol}://")
        raise UsageError(
            f"{protocol}:// needs the package '{package}', which is not installed",
            hint="pip install 'ktodata[s3]'" if package == "s3fs" else f"pip install {package}",
        ) from None
    except ValueError:
        raise UsageError(
            f"unknown protocol {protocol}://", hint="known are s3://, gs://, https:// and others of fsspec"
        ) from None
    try:
        # fsspec keeps the instance, and makes another one after a fork, which the first would not survive. What lies
        # at a URL may change while we run, so no listing is kept.
        system: AbstractFileSystem = kind(**kind._get_kwargs_from_urls(url), use_listings_cache=False)
    except (TypeError, ValueError) as error:  # it wants to be told more
        raise UsageError(
            f"{protocol}:// cannot be used: {first_line(error)}",
            hint=f"what a URL does not say, fsspec takes from the environment: FSSPEC_{protocol.upper()}_…",
        ) from None
    return system

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
_S3 = ("s3", "s3a")
_CONNECTIONS = 64  # to an S3 store, at most: its library has ten unless told, fewer than we have requests at a time
_PART_BYTES = 8 << 20  # of a file that S3 gets in parts; ten of them are held in memory
_MOST_PARTS = 10_000


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


def in_parts(url: str, num_bytes: int) -> dict[str, int]:
    """What `put_file` is told besides of a file of `num_bytes`, so that little of a large one is held in memory."""
    return {"chunksize": max(_PART_BYTES, -(-num_bytes // _MOST_PARTS))} if protocol_of(url) in _S3 else {}


def drop_unfinished(url: str) -> None:
    """Have the store forget what came of files below the folder at `url` before their uploads were cut off.

    S3 keeps it until then: nobody sees a file, and each part costs what it would cost in one. Elsewhere there is
    nothing to do. Raises OSError.
    """
    if protocol_of(url) not in _S3:
        return
    with speaking(url.rstrip("/")) as (system, path):
        bucket, folder, _ = system.split_path(path)
        asked = {"Bucket": bucket, "Prefix": f"{folder}/" if folder else ""}
        is_more = True
        while is_more:
            found = system.call_s3("list_multipart_uploads", **asked)
            for upload in found.get("Uploads", ()):
                system.abort_mpu(bucket, upload["Key"], upload["UploadId"])
            if is_more := found.get("IsTruncated", False):
                asked |= {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}


def _settings(url: str, kind: type[AbstractFileSystem]) -> dict[str, Any]:
    """What a file system is made with: what the URL says, and what we need where the user has not set it."""
    from fsspec.config import apply_config

    # What lies at a URL may change while we run, so no listing is kept.
    settings: dict[str, Any] = {**kind._get_kwargs_from_urls(url), "use_listings_cache": False}
    if protocol_of(url) in _S3:
        users = apply_config(kind, {}).get("config_kwargs", {})
        settings["config_kwargs"] = {"max_pool_connections": _CONNECTIONS, **users}
    return settings


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
        # fsspec keeps the instance, and makes another one after a fork, which the first would not survive.
        system: AbstractFileSystem = kind(**_settings(url, kind))
    except (TypeError, ValueError) as error:  # it wants to be told more
        raise UsageError(
            f"{protocol}:// cannot be used: {first_line(error)}",
            hint=f"what a URL does not say, fsspec takes from the environment: FSSPEC_{protocol.upper()}_…",
        ) from None
    return system

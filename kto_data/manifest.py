"""What is in a cache and what it was made from: `manifest.json`, written last, so that its presence means "whole".

The cache is a folder that `datasets.load_from_disk` opens. Everything a trainer must know to trust it is here.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kto_data import storage
from kto_data.choices import PackImages
from kto_data.errors import CacheError

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1

LabelCounts = dict[str, int]
"""Rows by label: keys "true" and "false"."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class InputFile(_Model):
    """One input file, as it was when the cache was made."""

    path: str
    split: str
    sha256: str
    bytes: int
    rows: int


class Shard(_Model):
    """One Arrow file: a run of rows of one input file, in source order."""

    path: str  # relative to the cache
    rows: int
    bytes: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` has its bytes. Raises OSError where it cannot be read."""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


class SplitCounts(_Model):
    """`read = kept + sum(dropped.values())`, by label wherever the label could be read."""

    read: int
    kept: int
    dropped: dict[str, int]  # reason (a rule code, or "too-long") -> rows
    read_by_label: LabelCounts
    kept_by_label: LabelCounts
    dropped_by_label: dict[str, LabelCounts]  # reason -> label -> rows
    truncated_by_label: LabelCounts  # completions that lost their tail


class Split(_Model):
    """A split of the cache."""

    shards: tuple[Shard, ...]
    counts: SplitCounts
    num_tokens: int
    num_image_tokens: int
    num_completion_tokens: int
    num_images: int
    max_num_tokens: int  # of the longest row


class PackedCounts(_Model):
    """The images that a cache holds itself."""

    paths: int  # that rows name
    files: int  # distinct ones, in `images/`
    bytes: int


class Manifest(_Model):
    """The whole of a cache.

    `fingerprint` is the hash of `parts`; each part is named, so that a difference can be told by name.
    """

    format_version: int = FORMAT_VERSION
    fingerprint: str
    parts: dict[str, Any]
    model: str = ""  # its folder relative to the cache, or its hub id: where to look first; no part of `parts`
    has_images: bool  # whether the model takes images, not whether any row has one
    image_root: str  # where the paths in `images` start, relative to the cache; can be given anew at training
    image_min_pixels: int | None
    image_max_pixels: int | None
    max_length: int | None
    pack_images: PackImages = "none"  # decides where pixels are read from, and none of them: no part of `parts`
    packed: PackedCounts | None = None
    inputs: tuple[InputFile, ...]
    splits: Annotated[dict[str, Split], Field(min_length=1)]


def fingerprint(parts: dict[str, Any]) -> str:
    """SHA-256 over the parts in canonical JSON, the first 32 hex digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def differing_parts(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of each part that differs; None stands for a part that is not there."""
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def read_manifest(cache: Path | str) -> Manifest:
    """The manifest of the cache at `cache`, a folder or a URL.

    Raises `CacheError` where there is none (a folder without one is not a cache) or it cannot be understood, and
    `UsageError` where the protocol of the URL is unknown.
    """
    return parse_manifest(read_manifest_bytes(cache), cache)


def has_manifest(cache: Path | str) -> bool:
    """Whether there is a cache at a folder or URL. Raises `CacheError` where the URL cannot be read."""
    path = path_in(cache, MANIFEST_NAME)
    try:
        return storage.is_file(path) if storage.is_url(path) else Path(path).exists()
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from None


def read_manifest_bytes(cache: Path | str) -> bytes:
    """What `parse_manifest` takes. Raises `CacheError` where there is none, `UsageError` as `read_manifest` does."""
    try:
        return read_in(cache, MANIFEST_NAME)
    except FileNotFoundError:
        raise CacheError(
            f"{cache} is not a cache: it has no {MANIFEST_NAME}",
            hint=f"ktodata preprocess DATA --model MODEL --output {cache}",
        ) from None
    except OSError as error:
        raise CacheError(f"cannot read {path_in(cache, MANIFEST_NAME)}: {error.strerror or error}") from None


def parse_manifest(content: bytes, cache: Path | str) -> Manifest:
    """The manifest that `content` is. Raises `CacheError` where it cannot be understood."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or MANIFEST_NAME
        raise CacheError(
            f"{cache}/{MANIFEST_NAME} is not understood: {where}: {first['msg']}",
            hint="it was written by another version of ktodata, or changed by hand: run `ktodata preprocess` again",
        ) from None


def path_in(cache: Path | str, name: str) -> str:
    """The path or URL of a file in the cache at a folder or URL."""
    return f"{os.fspath(cache).rstrip('/')}/{name}"


def read_in(cache: Path | str, name: str) -> bytes:
    """The bytes of a file in the cache at a folder or URL. Raises OSError where it cannot be read."""
    path = path_in(cache, name)
    return storage.read_bytes(path) if storage.is_url(path) else Path(path).read_bytes()

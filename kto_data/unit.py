"""One piece of the work of preprocessing, and what is left of it for the next run.

    Unit ─▶ Built ─▶ a file by the unit's key ─▶ Built

A key is the hash of all that decides what becomes of a unit, save its images: of those it is kept which files they
were. So a run that was killed goes on where it was, and one on changed data does again what has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from kto_data import image_file
from kto_data.chunk import Chunk, Line
from kto_data.finding import Finding
from kto_data.formats import Layout
from kto_data.manifest import Shard
from kto_data.packing import IMAGES_NAME, Packed
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.storage import FileState
from kto_data.tally import IMAGE_KEY_DTYPE, ROW_DTYPE, Tally
from kto_data.writing import write_whole, writing_to

UNITS_NAME = ".units"
"""The folder, inside that of a cache, of what is left of finished units."""

_COLUMNS = [[*column] for column in ROW_DTYPE.descr]
"""Of what is kept a row; where it was another, the work is done again."""
_FINDINGS = TypeAdapter(tuple[Finding, ...])
NOT_OURS = (OSError, ValueError, KeyError, TypeError, ValidationError)
"""What reading raises where a file is missing, or not what a run of this version has written."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work."""

    chunk: Chunk
    layout: Layout
    split: str
    folder: Path  # where the shard goes
    name: str  # the shard's file name
    caches: tuple[Path, ...] = ()  # folders of caches, finished or not, where the unit's work may have been done
    url: str = ""  # of the cache, where it is to lie at one
    contradicting: tuple[int, ...] = ()  # places among the chunk's lines, 0-based, of those that go for KTO401


@dataclass(frozen=True, slots=True)
class ImageStamp:
    """Which file an image was, without reading it again."""

    path: str  # as the record has it
    sha256: str
    state: FileState


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a unit. `shard` is None where no row was kept."""

    shard: Shard | None
    tally: Tally
    facts: ChunkFacts  # formats and unmapped images alone; samples are in the tally
    findings: tuple[Finding, ...]
    rejects: tuple[bytes, ...]  # one JSON object each
    key: str = ""
    images: tuple[ImageStamp, ...] | None = None  # None where an image is at fault: it may be mended meanwhile
    is_reused: bool = False
    at: str = ""  # the URL of the object that holds the shard, where it is not in the unit's folder
    ids_by: str = ""  # what made its ids; empty where nothing was to be made
    packed: Packed = field(default_factory=Packed)  # of the shard's images; not kept: the shard says which they are


def unit_key(settings_key: str, unit: Unit, lines: Iterable[Line]) -> str:
    """The hash of a unit's lines and of all that is done to them; `settings_key` stands for what all units share."""
    first = [settings_key, unit.split, unit.chunk.path, repr(unit.layout), *unit.contradicting]
    return content_key(first, lines)


def content_key(first: Sequence[object], lines: Iterable[Line]) -> str:
    """The hash of lines and of what comes `first`, which must be fit for JSON."""
    content = hashlib.sha256(json.dumps(first).encode())
    for line in lines:
        content.update(b"%d %d %d %s\n" % (line.number, line.byte_offset, len(line.raw), line.problem.encode()))
        content.update(line.raw)
    return content.hexdigest()[:32]


def keep(built: Built, unit: Unit, cache: Path) -> None:
    """Leave what became of a unit in the folder of a cache. Raises `InputError` where it cannot be written."""
    keep_record(cache, built.key, to_bytes(built, unit.split))


def keep_record(cache: Path, name: str, content: bytes) -> None:
    """Leave a file for the next run in the folder of a cache. Raises `InputError` where it cannot be written."""
    folder = cache / UNITS_NAME
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, content)


def find(key: str, unit: Unit, image_root: str) -> Built | None:
    """What became of a unit with this key, its shard now where the unit wants it; None where it must be done again."""
    for cache in unit.caches:
        found = kept(key, (cache / UNITS_NAME / key).read_bytes, image_root)
        if found is None:
            continue
        built, split = found
        if built.shard is None:
            return built
        for other in unit.caches:
            if _take_over(other / split / built.shard.path, unit.folder / unit.name, built.shard):
                return replace(built, shard=built.shard.model_copy(update={"path": unit.name}))
    return None


def kept(key: str, read: Callable[[], bytes], image_root: str) -> tuple[Built, str] | None:
    """The unit with this key that `read` gives, and its split; None where it is not there, or spoilt, or its images are
    not any more the files that they were."""
    try:
        built, split = _from_bytes(read(), key)
    except NOT_OURS:
        return None
    return (built, split) if _are_same_images(built, image_root) else None


def _are_same_images(built: Built, image_root: str) -> bool:
    """Whether the images are the files that they were; of those at fault that cannot be told."""
    if built.images is None:
        return False
    return all(image_file.for_each(image_root, lambda stamp: _is_same(stamp, image_root), built.images))


def _is_same(stamp: ImageStamp, image_root: str) -> bool:
    place = image_file.place(image_root, stamp.path)
    try:
        if stamp.state.version and image_file.state(place) == stamp.state:
            return True
        return image_file.sha256(place) == stamp.sha256
    except OSError:
        return False


def _take_over(path: Path, wanted: Path, shard: Shard) -> bool:
    """Whether the shard's bytes are at `path`; then they are at `wanted` too."""
    try:
        if not shard.is_at(path):
            return False
    except OSError:
        return False
    if path != wanted:
        with writing_to(wanted):
            wanted.unlink(missing_ok=True)
            try:
                os.link(path, wanted)
            except OSError:  # a file system without links
                shutil.copyfile(path, wanted)
    return True


def sweep(cache: Path, names: Sequence[str]) -> None:
    """Remove from a folder whatever is not named: what killed runs and runs with other settings left there. `names`
    are relative to it. Packed images are swept where they are moved into place."""
    wanted = {cache / name for name in names}
    folders = {parent for path in wanted for parent in path.parents}
    folders.add(cache / IMAGES_NAME)
    for folder, subfolders, files in os.walk(cache):
        if Path(folder) == cache / IMAGES_NAME:
            subfolders.clear()
        for name in files:
            path = Path(folder, name)
            if path not in wanted:
                path.unlink()
        for name in [name for name in subfolders if Path(folder, name) not in folders]:
            shutil.rmtree(Path(folder, name))
            subfolders.remove(name)


def to_bytes(built: Built, split: str) -> bytes:
    """What is left of a unit of `split` for the next run."""
    tally, facts = built.tally, built.facts
    head = {
        "columns": _COLUMNS,
        "num_rows": len(tally.rows),
        "split": split,
        "shard": built.shard.model_dump() if built.shard else None,
        "read": list(tally.read.items()),
        "dropped": list(tally.dropped.items()),
        "truncated": list(tally.truncated.items()),
        "sources": [[source, list(fates.items())] for source, fates in tally.sources.items()],
        "completions": list(tally.completions.items()),
        "path": facts.path,
        "formats": list(facts.formats.items()),
        "unmapped": [facts.num_unmapped, facts.first_unmapped],
        "findings": _FINDINGS.dump_python(built.findings, mode="json"),
        "rejects": [entry.decode() for entry in built.rejects],
        "images": None
        if built.images is None
        else [[stamp.path, stamp.sha256, *stamp.state] for stamp in built.images],
    }
    return json.dumps(head).encode() + b"\n" + tally.rows.tobytes() + tally.image_keys.tobytes()


def _from_bytes(content: bytes, key: str) -> tuple[Built, str]:
    """The unit and its split of which `to_bytes` has made `content`. Raises one of `NOT_OURS` where none is."""
    first, _, columns = content.partition(b"\n")
    head: dict[str, Any] = json.loads(first)
    if head["columns"] != _COLUMNS:
        raise ValueError("written by another version")
    num_rows = head["num_rows"]
    facts = ChunkFacts(head["path"], formats=dict(head["formats"]))
    facts.num_unmapped, facts.first_unmapped = head["unmapped"]
    tally = Tally(
        read=Counter(dict(head["read"])),
        dropped=Counter({(reason, label): count for (reason, label), count in head["dropped"]}),
        truncated=Counter(dict(head["truncated"])),
        sources={
            source: Counter({(fate, label): count for (fate, label), count in fates})
            for source, fates in head["sources"]
        },
        completions=dict(head["completions"]),
        rows=np.frombuffer(columns, ROW_DTYPE, num_rows),
        image_keys=np.frombuffer(columns, IMAGE_KEY_DTYPE, offset=num_rows * ROW_DTYPE.itemsize),
    )
    built = Built(
        shard=Shard.model_validate(head["shard"]) if head["shard"] else None,
        tally=tally,
        facts=facts,
        findings=_FINDINGS.validate_python(head["findings"]),
        rejects=tuple(entry.encode() for entry in head["rejects"]),
        key=key,
        images=None
        if head["images"] is None
        else tuple(ImageStamp(path, sha256, FileState(*state)) for path, sha256, *state in head["images"]),
        is_reused=True,
    )
    return built, head["split"]

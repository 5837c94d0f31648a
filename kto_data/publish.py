"""The folder of a cache: one writer at a time, and a new cache put in the place of the old one, the manifest last."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kto_data.errors import UsageError
from kto_data.manifest import MANIFEST_NAME, Manifest
from kto_data.packing import IMAGES_NAME, AllPacked, holds_packed_alone, move_in
from kto_data.unit import UNITS_NAME
from kto_data.writing import write_whole, writing_to

REPORT_NAME = "report.json"
REPORT_NAMES = {"json": REPORT_NAME, "markdown": "report.md", "html": "report.html"}
"""The label balance report, by format."""
REJECTS_NAME = "rejects.jsonl"
RUN_NAME = "run.json"
BUILDING_NAME = ".building"
_LOCK = ".lock"
OWN_NAMES = ("train", "eval", "dataset_dict.json", *REPORT_NAMES.values(), REJECTS_NAME, RUN_NAME, UNITS_NAME)
"""What a cache consists of besides its manifest. All else in the folder is somebody's, and stays."""


def publish(output: Path, building: Path, manifest: Manifest, packed: AllPacked) -> None:
    """Move the whole cache that lies in `building` into its place, and write its manifest.

    Of its images only those lie there that were not in their place already.

    From the first step to the last the folder has no manifest, and so is no cache; what is in `building` tells that one
    is in the making. Raises `InputError` when the disk is full or the folder cannot be written to.
    """
    write_whole(building / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode() + b"\n")
    with writing_to(output):
        (output / MANIFEST_NAME).unlink(missing_ok=True)
        for name in OWN_NAMES:
            if (output / name).is_dir():
                shutil.rmtree(output / name)
            if (building / name).exists():
                (building / name).replace(output / name)
        move_in(building, output, packed)
        (building / MANIFEST_NAME).replace(output / MANIFEST_NAME)


def is_whole(output: Path, reports: Mapping[str, bytes]) -> bool:
    """Whether all of a published cache is there besides its shards, whose content nobody looks at here; its reports
    (name -> content) just as they are to be."""
    if not all((output / name).exists() for name in OWN_NAMES if name != "eval"):
        return False
    return all((output / name).read_bytes() == content for name, content in reports.items())


@contextmanager
def output_lock(output: Path, url: str = "") -> Iterator[None]:
    """Hold the output folder, made if it is missing, against a second run; `url`: where its cache is to go, if to one.

    Raises `UsageError` when another run holds it, or it holds something that is not a cache.
    """
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        names = os.listdir(output)
        own = {BUILDING_NAME, _LOCK, *OWN_NAMES}
        if holds_packed_alone(output / IMAGES_NAME):
            own.add(IMAGES_NAME)
        others = sorted(set(names) - own)
        if others and not {MANIFEST_NAME, BUILDING_NAME} & set(names):
            raise UsageError(
                f"{output} is not empty and holds no cache (for one, {others[0]!r})",
                hint="give --output a new folder, or empty this one",
            )
        lock = open(output / _LOCK, "w")  # noqa: SIM115 - held until the run ends
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another run is writing {url or output}", hint="wait for it to end, or give --output another place"
            ) from None
        yield

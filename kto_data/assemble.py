"""What the units of a run gave to a whole cache: its report, its manifest, and the folder, the manifest last.

RunSoFar ─▶ Manifest, BalanceReport ─▶ the folder of the cache
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_data import storage
from kto_data.build import id_parts
from kto_data.depot import Contents
from kto_data.errors import CacheError, InputError
from kto_data.manifest import Manifest, Split, fingerprint, read_manifest
from kto_data.processor import Processor
from kto_data.publish import REJECTS_NAME, REPORT_NAMES, RUN_NAME, is_whole, publish
from kto_data.recipe import PreprocessSettings
from kto_data.report.balance.formats import FORMATS
from kto_data.report.balance.model import BalanceReport
from kto_data.report.balance.numbers import balance_report
from kto_data.shard import write_dataset_files
from kto_data.so_far import RunSoFar, SplitSoFar
from kto_data.unit import UNITS_NAME, sweep
from kto_data.writing import whole_file, write_whole


@dataclass(frozen=True, slots=True)
class Assembled:
    """The cache as it is now, and what was in its place."""

    manifest: Manifest
    report: BalanceReport
    before: Manifest | None
    is_unchanged: bool  # it was there already, just as it is
    contents: Contents  # what of it may lie at its URL already, where it has one


def assemble(
    settings: PreprocessSettings, processor: Processor, run: RunSoFar, building: Path, names_of_keys: Sequence[str]
) -> Assembled:
    """Make the cache of all that `run` gathered in the folder `building`, which is gone afterwards.

    `names_of_keys`: the files of the first pass that are to stay. Raises `InputError` where no row of a split is left,
    or the cache cannot be written.
    """
    for name, so_far in run.splits.items():
        if not so_far.shards:
            raise InputError(
                f"no row of the {name} split is left: {so_far.num_rejects:,} lines were dropped",
                hint="run `ktodata validate` on the files to see why, or raise --max-length",
            )
    manifest = _manifest(settings, processor, run)
    tallies = {name: so_far.merged() for name, so_far in run.splits.items()}
    report = balance_report(tallies, manifest.fingerprint, settings.batch_size)
    reports = {name: FORMATS[format](report).encode() for format, name in REPORT_NAMES.items()}
    before = _manifest_before(settings.output)
    is_there = (
        manifest == before
        and run.record.num_reused == run.record.num_units
        and not run.packed.has_new
        and is_whole(settings.output, reports)
    )
    records = [*names_of_keys, *(key for so_far in run.splits.values() for key in so_far.keys)]
    if not is_there:
        _write_parts(building, manifest, reports, run.splits, records)
        write_whole(building / RUN_NAME, run.record.to_json())
        publish(settings.output, building, manifest, run.packed)
    shutil.rmtree(building)
    contents = Contents(shards=run.put_elsewhere, images=run.packed, records=frozenset(records))
    return Assembled(manifest, report, before, is_there, contents)


def _manifest_before(output: Path) -> Manifest | None:
    """The manifest of the cache that is there; None where there is none, or it is not understood any more."""
    try:
        return read_manifest(output)
    except CacheError:
        return None


def _manifest(settings: PreprocessSettings, processor: Processor, run: RunSoFar) -> Manifest:
    options, splits = settings.build, run.splits
    inputs = [file.finish() for file in run.files]
    parts: dict[str, Any] = {
        "inputs": [{"path": i.path, "split": i.split, "sha256": i.sha256} for i in inputs],
        "layouts": [repr(file.layout) for files in settings.inputs.values() for file in files],
        **id_parts(processor, options),
        "invalid": options.invalid.value,
        **settings.allot.parts(),
        "shard_rows": settings.shard_rows,
        "shards": {name: [shard.sha256 for shard in so_far.shards] for name, so_far in splits.items()},
    }
    return Manifest(
        fingerprint=fingerprint(parts),
        parts=parts,
        model=_seen_from(settings, options.model) if os.path.isdir(options.model) else options.model,
        has_images=processor.has_images,
        image_root=_seen_from(settings, options.image_root),
        image_min_pixels=options.budget.min_pixels,
        image_max_pixels=options.budget.max_pixels,
        max_length=options.max_length,
        pack_images=options.pack_images,
        packed=None if options.pack_images == "none" else run.packed.counts(),
        inputs=tuple(inputs),
        splits={name: _split(name, so_far) for name, so_far in splits.items()},
    )


def _seen_from(settings: PreprocessSettings, folder: str) -> str:
    """Where a folder is, seen from the cache, so that both can move together; from or to a URL, where it is."""
    if storage.is_url(folder):
        return folder
    folder = os.path.realpath(folder)
    return folder if settings.url else os.path.relpath(folder, settings.output.resolve())


def _split(name: str, so_far: SplitSoFar) -> Split:
    tally = so_far.merged()
    rows = tally.rows
    shards = tuple(shard.model_copy(update={"path": f"{name}/{shard.path}"}) for shard in so_far.shards)
    return Split(
        shards=shards,
        counts=tally.counts(),
        num_tokens=int(rows["num_prompt"].sum() + rows["num_completion"].sum()),
        num_image_tokens=int(rows["num_image_tokens"].sum()),
        num_completion_tokens=int(rows["num_completion"].sum()),
        num_images=int(rows["num_images"].sum()),
        max_num_tokens=int((rows["num_prompt"] + rows["num_completion"]).max()),
    )


def _write_parts(
    folder: Path,
    manifest: Manifest,
    reports: Mapping[str, bytes],
    splits: Mapping[str, SplitSoFar],
    records: Sequence[str],
) -> None:
    """Write all of a cache but its shards, which are there, and its manifest, which comes last. `reports`: by name;
    `records`: names of the files in `.units` that are to stay."""
    shards = [f"{name}/{shard.path}" for name, so_far in splits.items() for shard in so_far.shards]
    sweep(folder, [*shards, *(f"{UNITS_NAME}/{name}" for name in records)])
    names = {name: [shard.path for shard in so_far.shards] for name, so_far in splits.items()}
    write_dataset_files(folder, names, manifest.fingerprint)
    for name, content in reports.items():
        write_whole(folder / name, content)
    with whole_file(folder / REJECTS_NAME) as file:
        for so_far in splits.values():
            so_far.copy_rejects(file)

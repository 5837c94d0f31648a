"""The loop from input files to a cache: units of work, their results in order, and the manifest last.

    files ─▶ Unit(s) ─▶ Built(s) ─▶ splits, report, rejects ─▶ manifest.json

All is built in a hidden folder inside the output and moved into place when it is whole, so that a run that fails or
is killed leaves an earlier cache as it was, and the next run goes on where it was. A folder without a manifest is not
a cache.
"""

from __future__ import annotations

import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kto_data import build
from kto_data.allot import Allotment, allot
from kto_data.assemble import assemble
from kto_data.build import BuildSettings
from kto_data.encode import TOO_LONG_CODES
from kto_data.engine.contract import Work
from kto_data.inputs import paths_read
from kto_data.lost import LOST_CODE, lost_rows
from kto_data.manifest import Manifest, differing_parts
from kto_data.packing import IMAGES_NAME
from kto_data.policy import Invalid, TooLong
from kto_data.processor import Processor
from kto_data.publish import BUILDING_NAME, output_lock
from kto_data.recipe import PreprocessSettings
from kto_data.report.balance.model import BalanceReport
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.so_far import FindingsSoFar, InputSoFar, RunSoFar, share_done
from kto_data.storage import is_shared
from kto_data.tally import TallyBuilder
from kto_data.text_ids import WrongIdsError
from kto_data.unit import UNITS_NAME, Built, Unit
from kto_data.upload import Uploaded, claimed, upload_cache
from kto_data.writing import writing_to

WHOLE_INPUT_CODES = frozenset({"KTO114", "KTO116"})
"""Rules about the input as a whole that make every row doubtful: mixed formats, images that the mapping leaves out."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run; `manifest` and `report` are None where errors in the data kept it from making a cache."""

    manifest: Manifest | None
    report: BalanceReport | None
    findings: FindingsSoFar
    num_rows: int
    num_units: int = 0  # pieces of work
    num_reused: int = 0  # of them, those whose result an earlier run had left
    is_unchanged: bool = False  # the cache was there already, just as it is
    uploaded: Uploaded | None = None  # where it was to go to a URL
    changes: tuple[tuple[str, Any, Any], ...] = ()  # to the fingerprint of the cache that was there: name, before, now


Progress = Callable[[int, int, float | None, int, int, str], None]
"""Told the numbers of rows read and dropped so far, about what share of all is done, where that is known, the numbers
of shards that are done, and that an engine has lost, and in the first of two passes `FIRST_PASS`, otherwise ""."""

FIRST_PASS = "first pass"
"""The pass in which rows are made known to each other, where that is asked for."""


def preprocess(settings: PreprocessSettings, progress: Progress) -> Result:
    """Make the cache.

    Raises `UsageError` when the output is in use or holds something else, `ModelError` when the model cannot be used,
    and `InputError` when a file cannot be read or written, the storage fails, or no row is left.
    """
    processor = build.load(settings.build)
    if settings.is_read_once:
        settings = replace(settings, build=replace(settings.build, fast_after=None))
    claim = claimed(settings.url, settings.output) if settings.url else nullcontext()
    with output_lock(settings.output, settings.url), claim:
        # Whatever ends the run, what is built stays there for the next one.
        building = settings.output / BUILDING_NAME
        if not settings.resume:
            shutil.rmtree(building / IMAGES_NAME, ignore_errors=True)
        try:
            return _make(settings, processor, building, progress)
        except WrongIdsError:
            # What was built before the fault came to light may be wrong too, and what other runs have left.
            slow = replace(settings, resume=False, build=replace(settings.build, fast_after=None))
            return _make(slow, processor, building, progress)


def _make(settings: PreprocessSettings, processor: Processor, building: Path, progress: Progress) -> Result:
    run = RunSoFar(settings.inputs, settings.split_names, building, jobs=settings.jobs)
    caches = (building, settings.output) if settings.resume else ()
    if settings.allot.asks_for_keys:
        progress(0, 0, None, 0, 0, FIRST_PASS)  # a chunk may take minutes, and so may a shard
    allotment = allot(
        settings.allot,
        [file.file for file in run.files],
        settings.build.checks,
        rows_per_chunk=settings.shard_rows,
        jobs=settings.jobs,
        engine=settings.engine,
        folder=building,
        caches=caches,
        url=settings.url,
        progress=lambda num_rows, share: progress(num_rows, 0, share, 0, 0, FIRST_PASS),
    )
    if allotment.lost:
        run.findings.add(allotment.lost)
        return Result(None, None, run.findings, 0)
    progress(0, 0, None, 0, 0, "")
    for file, split, built in _built_units(settings, run.files, allotment, building, caches):
        run.add(file, split, built)
        progress(run.record.num_rows, run.num_dropped, share_done(run.files), run.num_built, run.num_lost, "")
    run.conclude_findings(WHOLE_INPUT_CODES)
    if _is_refused(settings.build, run.findings):
        return Result(None, None, run.findings, run.record.num_rows)
    made = assemble(settings, processor, run, building, allotment.names)
    return Result(
        made.manifest,
        made.report,
        run.findings,
        run.record.num_rows,
        num_units=run.record.num_units,
        num_reused=run.record.num_reused,
        is_unchanged=made.is_unchanged,
        uploaded=upload_cache(settings.output, settings.url, made.contents) if settings.url else None,
        changes=tuple(differing_parts(made.before.parts, made.manifest.parts)) if made.before else (),
    )


def _is_refused(settings: BuildSettings, findings: FindingsSoFar) -> bool:
    if settings.invalid is Invalid.ERROR:
        return findings.num_errors > 0
    if findings.codes & {*WHOLE_INPUT_CODES, LOST_CODE}:
        return True  # no row is known to be at fault, so dropping rows does not mend it
    # Rows that are only too long are no invalid rows: they are told of separately, by --too-long.
    return settings.too_long is TooLong.ERROR and bool(findings.codes & TOO_LONG_CODES)


def _built_units(
    settings: PreprocessSettings,
    files: Sequence[InputSoFar],
    allotment: Allotment,
    building: Path,
    caches: tuple[Path, ...],
) -> Iterator[tuple[InputSoFar, str, Built]]:
    """The result of each unit with the file it is of and its split, in the order of the input."""
    origin: deque[tuple[InputSoFar, str]] = deque()  # of the units under way, oldest first
    numbers = {split: itertools.count() for split in settings.split_names}
    for folder in (building / name for name in (*settings.split_names, UNITS_NAME)):
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def units() -> Iterator[Unit]:
        for file in files:
            for chunk in file.chunks(settings.shard_rows):
                for part in allotment.parts(chunk, file.split):
                    origin.append((file, part.split))
                    file.num_units_drawn += 1
                    name = f"shard-{next(numbers[part.split]):05d}.arrow"
                    folder = building / part.split
                    yield Unit(
                        part.chunk, file.file.layout, part.split, folder, name, caches, settings.url, part.contradicting
                    )

    work = Work(
        build.build, build.start, (settings.build,), if_lost=_lost,
        reads=paths_read([file.file for file in files], settings.build.image_root, settings.build.model),
        folder=building, call_afar=build.build_afar if settings.url and is_shared(settings.url) else None,
        name=lambda unit: f"preprocess {unit.split}/{unit.name}",
    )  # fmt: skip
    for built in settings.engine(work, units(), jobs=settings.jobs):
        yield *origin.popleft(), built


def _lost(unit: Unit) -> Built:
    finding = lost_rows(unit.chunk, f"{unit.split}/{unit.name}")
    return Built(None, TallyBuilder().finish(), ChunkFacts(unit.chunk.path), (finding,), ())

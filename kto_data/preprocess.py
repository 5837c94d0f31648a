"""The loop from input files to a cache: units of work, their results in order, and the manifest last.

    files ─▶ Unit(s) ─▶ Built(s) ─▶ splits, report, rejects ─▶ manifest.json

All is built in a hidden folder inside the output and moved into place when it is whole, so that a run that fails or
is killed leaves an earlier cache as it was, and the next run goes on where it was. A folder without a manifest is not
a cache.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kto_data import build, storage
from kto_data.allot import EVAL, Allotment, AllotSettings, allot
from kto_data.build import BuildSettings, id_parts
from kto_data.check import CheckSettings, check_dataset
from kto_data.chunk import SourceKind
from kto_data.encode import TOO_LONG_CODES
from kto_data.engine import local
from kto_data.engine.contract import Engine, Work
from kto_data.errors import CacheError, InputError
from kto_data.inputs import Input
from kto_data.lost import LOST_CODE, lost_rows
from kto_data.manifest import (
    InputFile,
    Manifest,
    Split,
    differing_parts,
    fingerprint,
    read_manifest,
)
from kto_data.packing import IMAGES_NAME, Packed
from kto_data.paths import TRAIN
from kto_data.policy import Invalid, TooLong
from kto_data.processor import Processor
from kto_data.publish import BUILDING_NAME, REJECTS_NAME, REPORT_NAMES, RUN_NAME, is_whole, output_lock, publish
from kto_data.report.balance.formats import FORMATS
from kto_data.report.balance.model import BalanceReport
from kto_data.report.balance.numbers import balance_report
from kto_data.rules.facts import ChunkFacts, DatasetFacts
from kto_data.run_record import RunRecord
from kto_data.shard import write_dataset_files
from kto_data.so_far import FindingsSoFar, InputSoFar, SplitSoFar, share_done
from kto_data.tally import TallyBuilder
from kto_data.text_ids import WrongIdsError
from kto_data.unit import UNITS_NAME, Built, Unit, sweep
from kto_data.upload import Uploaded, claimed, upload_cache
from kto_data.writing import whole_file, write_whole, writing_to

_WHOLE_INPUT_CODES = frozenset({"KTO114", "KTO116"})
"""Rules about the input as a whole that make every row doubtful: mixed formats, images that the mapping leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSettings:
    """What a cache is made of and how."""

    inputs: Mapping[str, tuple[Input, ...]]  # split -> files
    output: Path
    url: str = ""  # where the cache goes when it is whole; then `output` is its `work_folder`
    build: BuildSettings
    allot: AllotSettings = field(default_factory=AllotSettings)
    shard_rows: int
    batch_size: int  # rows a device of the training to come: the report says what its groups would be like
    jobs: int = 1
    engine: Engine = local.run
    resume: bool = True  # take over what earlier runs have done

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits of the cache, in their order."""
        return tuple(self.inputs) if self.allot.eval_fraction is None else (TRAIN, EVAL)

    @property
    def is_read_once(self) -> bool:
        """Whether there is no second reading of the data."""
        kinds = (file.source.kind for inputs in self.inputs.values() for file in inputs)
        return any(kind is SourceKind.STDIN for kind in kinds)


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


Progress = Callable[[int, int, float | None, int, int], None]
"""Told the numbers of rows read and dropped so far, about what share of all is done, where that is known, and the
numbers of shards that are done, and that an engine has lost."""


def preprocess(settings: PreprocessSettings, progress: Progress) -> Result:
    """Make the cache.

    Raises `UsageError` when the output is in use or holds something else, `ModelError` when the model cannot be used,
    and `InputError` when a file cannot be read or written, the storage fails, or no row is left.
    """
    processor = build.load(settings.build)
    if settings.is_read_once:
        settings = replace(settings, build=replace(settings.build, fast_after=None))
    with output_lock(settings.output), claimed(settings.url, settings.output) if settings.url else nullcontext():
        # Whatever ends the run, what is built stays there for the next one.
        building = settings.output / BUILDING_NAME
        if not settings.resume:
            shutil.rmtree(building / IMAGES_NAME, ignore_errors=True)
        try:
            result = _make(settings, processor, building, progress)
        except WrongIdsError:
            # What was built before the fault came to light may be wrong too, and what other runs have left.
            slow = replace(settings, resume=False, build=replace(settings.build, fast_after=None))
            result = _make(slow, processor, building, progress)
        if settings.url and result.manifest is not None:
            result = replace(result, uploaded=upload_cache(settings.output, settings.url))
        return result


def _make(settings: PreprocessSettings, processor: Processor, building: Path, progress: Progress) -> Result:
    splits = {name: SplitSoFar(building) for name in settings.split_names}
    run = RunRecord(jobs=settings.jobs)
    files = [InputSoFar(name, file) for name, inputs in settings.inputs.items() for file in inputs]
    findings = FindingsSoFar()
    facts = DatasetFacts()
    num_dropped = num_lost = 0
    caches = (building, settings.output) if settings.resume else ()
    allotment = allot(
        settings.allot,
        [file.file for file in files],
        settings.build.checks,
        rows_per_chunk=settings.shard_rows,
        jobs=settings.jobs,
        engine=settings.engine,
        folder=building,
        caches=caches,
    )
    if allotment.lost:
        findings.add(allotment.lost)
        return Result(None, None, findings, 0)
    for file, split, built in _built_units(settings, files, allotment, building, caches):
        rows = sum(built.tally.read.values())
        file.num_rows += rows
        splits[split].add(built)
        facts.extend(built.facts)
        file.findings.add(built.findings)
        run.add(built, rows)
        num_dropped += sum(built.tally.dropped.values())
        file.num_units_done += 1
        num_lost += any(finding.code == LOST_CODE for finding in built.findings)
        progress(run.num_rows, num_dropped, share_done(files), run.num_units - num_lost, num_lost)
    for file in files:  # of whose chunks the parts come one after the other
        findings.extend(file.findings)
    findings.add(check_dataset(facts, CheckSettings(codes=_WHOLE_INPUT_CODES)))
    if _is_refused(settings.build, findings):
        return Result(None, None, findings, run.num_rows)
    for name, so_far in splits.items():
        if not so_far.shards:
            raise InputError(
                f"no row of the {name} split is left: {so_far.num_rejects:,} lines were dropped",
                hint="run `ktodata validate` on the files to see why, or raise --max-length",
            )
    packed = Packed.merged(part for so_far in splits.values() for part in so_far.packed)
    manifest = _manifest(settings, processor, [file.finish() for file in files], splits, packed)
    tallies = {name: so_far.merged() for name, so_far in splits.items()}
    report = balance_report(tallies, manifest.fingerprint, settings.batch_size)
    reports = {name: FORMATS[format](report).encode() for format, name in REPORT_NAMES.items()}
    before = _manifest_before(settings.output)
    is_there = (
        manifest == before
        and run.num_reused == run.num_units
        and not packed.has_new
        and is_whole(settings.output, reports)
    )
    if not is_there:
        _write_parts(building, manifest, reports, splits, allotment.names)
        write_whole(building / RUN_NAME, run.to_json())
        publish(settings.output, building, manifest, packed)
    shutil.rmtree(building)
    return Result(
        manifest,
        report,
        findings,
        run.num_rows,
        num_units=run.num_units,
        num_reused=run.num_reused,
        is_unchanged=is_there,
        changes=tuple(differing_parts(before.parts, manifest.parts)) if before else (),
    )


def _manifest_before(output: Path) -> Manifest | None:
    """The manifest of the cache that is there; None where there is none, or it is not understood any more."""
    try:
        return read_manifest(output)
    except CacheError:
        return None


def _is_refused(settings: BuildSettings, findings: FindingsSoFar) -> bool:
    if settings.invalid is Invalid.ERROR:
        return findings.num_errors > 0
    if findings.codes & {*_WHOLE_INPUT_CODES, LOST_CODE}:
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
    for folder in (building / split for split in settings.split_names):
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
                    yield Unit(part.chunk, file.file.layout, part.split, folder, name, caches, part.contradicting)

    work = Work(build.build, build.start, (settings.build,), if_lost=_lost, folder=building)
    for built in settings.engine(work, units(), jobs=settings.jobs):
        yield *origin.popleft(), built


def _lost(unit: Unit) -> Built:
    finding = lost_rows(unit.chunk, f"{unit.split}/{unit.name}")
    return Built(None, TallyBuilder().finish(), ChunkFacts(unit.chunk.path), (finding,), ())


def _manifest(
    settings: PreprocessSettings,
    processor: Processor,
    inputs: list[InputFile],
    splits: Mapping[str, SplitSoFar],
    packed: Packed,
) -> Manifest:
    options = settings.build
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
        packed=None if options.pack_images == "none" else packed.counts(),
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
    names_of_keys: Sequence[str],
) -> None:
    """Write all of a cache but its shards, which are there, and its manifest, which comes last. `reports`: by name."""
    shards = [f"{name}/{shard.path}" for name, so_far in splits.items() for shard in so_far.shards]
    kept = [*names_of_keys, *(key for so_far in splits.values() for key in so_far.keys)]
    sweep(folder, [*shards, *(f"{UNITS_NAME}/{name}" for name in kept)])
    names = {name: [shard.path for shard in so_far.shards] for name, so_far in splits.items()}
    write_dataset_files(folder, names, manifest.fingerprint)
    for name, content in reports.items():
        write_whole(folder / name, content)
    with whole_file(folder / REJECTS_NAME) as file:
        for so_far in splits.values():
            so_far.copy_rejects(file)

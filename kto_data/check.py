"""One line to its findings and records: the check that `validate` and `preprocess` share.

    Line ─▶ LineChecker ─▶ CheckedLine(findings, samples)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import xxhash

from kto_data.digest import record_digest
from kto_data.finding import Finding, Location, Severity
from kto_data.formats import Layout
from kto_data.image import ImageCheck, ImageProbe, PixelBudget, ProbeStatus, probe
from kto_data.record import Record
from kto_data.row import Row, read_rows
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Defect, Rule, Stage
from kto_data.rules.facts import ChunkFacts, ConfigFacts, DatasetFacts, ImageFacts
from kto_data.source import Line

_PROBES_REMEMBERED = 100_000  # a worker's memory of images: some 50 MB

DEFAULT_CODES: frozenset[str] = frozenset(rule.code for rule in ALL_RULES if rule.default)
"""The rules that run where nothing is selected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """What a line is held to. Picklable: rules go by their codes."""

    images: ImageCheck = ImageCheck.HEADER
    image_root: Path | None = None  # None: the folder of each data file
    budget: PixelBudget = PixelBudget()
    codes: frozenset[str] = DEFAULT_CODES

    def rules(self, stage: Stage) -> tuple[Rule, ...]:
        """The selected rules of a stage that can run with these settings."""
        return tuple(
            rule for rule in ALL_RULES if rule.code in self.codes and rule.stage is stage and not self.skip_reason(rule)
        )

    def skip_reason(self, rule: Rule) -> str:
        """Why a rule cannot run with these settings; empty where it can."""
        levels = list(ImageCheck)
        if levels.index(self.images) >= levels.index(rule.needs):
            return ""
        return f"needs --images {rule.needs.value}, runs with --images {self.images.value}"


@dataclass(frozen=True, slots=True)
class CheckedRecord:
    """A record that satisfies the schema, and one probe for each entry of its `images`."""

    record: Record
    probes: tuple[ImageProbe, ...]


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """What is to be said of a line, and its records (two of a paired line) as far as they satisfy the schema."""

    line: Line
    findings: tuple[Finding, ...]
    samples: tuple[CheckedRecord, ...]
    format: str  # the format it is written in; empty where it could not be told
    unmapped_images: bool  # it has images that the column mapping leaves out

    @property
    def is_trainable(self) -> bool:
        """Whether nothing worse than a warning was found, in any of its records."""
        return bool(self.samples) and not any(finding.severity is Severity.ERROR for finding in self.findings)


class LineChecker:
    """Checks lines of one layout. Make one a process: it remembers the images it has looked at."""

    def __init__(self, layout: Layout, settings: CheckSettings) -> None:
        self.layout = layout
        self.settings = settings
        self._row_rules = settings.rules(Stage.ROW)
        self._image_rules = settings.rules(Stage.IMAGE)
        self._probe = lru_cache(maxsize=_PROBES_REMEMBERED)(self._probe_anew)

    def check(self, line: Line) -> CheckedLine:
        """All findings of the row and image rules about `line`, in the order of their codes, and its records."""
        findings: dict[Finding, None] = {}  # the two records of a paired line share a prompt, and what is wrong with it
        samples = []
        rows = read_rows(line, self.layout)
        for row in rows:
            probes = self.probes(row.image_paths, line.path)
            for rule, defect in self._defects(row, probes):
                findings[as_finding(rule, defect, _location(row, defect), row)] = None
            if row.record is not None:
                samples.append(CheckedRecord(row.record, tuple(probes[path] for path in row.record.images)))
        return CheckedLine(
            line=line,
            findings=tuple(findings),
            samples=tuple(samples),
            format=rows[0].format if rows[0].value is not None else "",
            unmapped_images=any(row.unmapped_images for row in rows),
        )

    def probes(self, paths: tuple[str, ...], data_path: str) -> dict[str, ImageProbe]:
        """A probe for each distinct image path of a record of the data file `data_path`."""
        if not paths:
            return {}
        root = os.path.realpath(self.settings.image_root or os.path.dirname(data_path))
        return {given: self._probe(given, root) for given in paths}

    def image_defects(self, image: ImageProbe) -> Iterator[tuple[Rule, Defect]]:
        """What the image rules say about one image."""
        facts = ImageFacts(image, self.settings.budget)
        for rule in self._image_rules:
            for defect in rule.check(facts):
                yield rule, defect

    def _defects(self, row: Row, probes: dict[str, ImageProbe]) -> Iterator[tuple[Rule, Defect]]:
        for rule in self._row_rules:
            for defect in rule.check(row):
                yield rule, defect
        for index, path in row.image_paths:
            for rule, defect in self.image_defects(probes[path]):
                yield rule, replace(defect, pointer=f"/images/{index}")

    def _probe_anew(self, given: str, root: str) -> ImageProbe:
        if self.settings.images is ImageCheck.OFF:
            return _judge_by_name(given, root)
        return probe(given, Path(root), self.settings.images)


def note(checked: CheckedLine, facts: ChunkFacts) -> None:
    """Add what the dataset rules need to know of a line to the facts of its chunk."""
    number = checked.line.number
    if checked.format:
        facts.add_format(checked.format, number)
    if checked.unmapped_images:
        facts.add_unmapped(number)
    for sample in checked.samples:
        facts.add_sample(record_digest(sample.record), number, sample.record.label)


def check_dataset(facts: DatasetFacts, settings: CheckSettings) -> Iterator[Finding]:
    """The findings about all records together and about the column mapping: what a run says after its last line."""
    for rule in settings.rules(Stage.CONFIG):
        yield from _dataset_findings(rule, facts.config)
    for rule in settings.rules(Stage.DATASET):
        yield from _dataset_findings(rule, facts)


def as_finding(rule: Rule, defect: Defect, location: Location, row: Row | None = None) -> Finding:
    """The finding that `rule` makes of `defect`."""
    return Finding(
        code=rule.code,
        severity=defect.severity or rule.severity,
        location=location,
        message=defect.message,
        record_id=row.record_id if row else None,
        row_hash=xxhash.xxh3_64_hexdigest(row.line.raw) if row else None,
    )


def _dataset_findings(rule: Rule, subject: DatasetFacts | ConfigFacts) -> Iterator[Finding]:
    for defect in rule.check(subject):
        assert defect.path is not None
        yield as_finding(rule, defect, Location(path=defect.path, line=defect.line))


def _location(row: Row, defect: Defect) -> Location:
    line = row.line
    return Location(path=line.path, line=line.number, byte_offset=line.byte_offset, pointer=row.user_pointer(defect.pointer))


def _judge_by_name(given: str, root: str) -> ImageProbe:
    """What a path says of itself, where files are not to be looked at."""
    if "://" in given or given.startswith("data:"):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    tried = os.path.normpath(os.path.join(root, given))
    escapes = os.path.commonpath([root, tried]) != root
    return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT if escapes else ProbeStatus.OK)

"""One line to its findings and records: the check that `validate` and `preprocess` share.

Line ─▶ LineChecker ─▶ CheckedLine(findings, samples)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kto_data import near, remote_image, storage
from kto_data.chunk import Line
from kto_data.finding import Finding, Severity
from kto_data.formats import Layout
from kto_data.image import ImageCheck, ImageProbe, PixelBudget, ProbeStatus, probe
from kto_data.row import Row, SyntaxProblem
from kto_data.rules import ALL_RULES
from kto_data.rules.base import AnyRule, Defect, Requirement, Stage
from kto_data.rules.facts import ConfigFacts, DatasetFacts, ImageFacts, RowImages
from kto_data.ruling import dataset_findings, row_finding, run_rule
from kto_data.training import read_train_plan

if TYPE_CHECKING:
    from kto_data.record import Record

_LISTED_A_ROW = 100  # findings of one rule: more of one record than a person would read
_IMAGES_REMEMBERED = 50_000  # a worker's memory of images: some 30 MB
_LINES_AHEAD = 256  # lines whose images are asked for together where each is a request

_PATH_CODES = frozenset({"KTO216"})
"""Rules about sound images that look at the whole path, not at its suffix and the header alone."""

_IMAGE_CODES = frozenset(rule.code for rule in ALL_RULES if rule.stage in (Stage.IMAGE, Stage.ROW_IMAGES))

NO_BUDGET = PixelBudget()

DEFAULT_CODES: frozenset[str] = frozenset(rule.code for rule in ALL_RULES if rule.default)
"""The rules that run where nothing is selected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """What a line is held to. Picklable: rules go by their codes."""

    images: ImageCheck = ImageCheck.HEADER
    image_root: Path | str | None = None  # a folder or a URL; None: the folder of each data file
    budget: PixelBudget = NO_BUDGET
    row_max_pixels: int | None = None  # of all images of a record together
    model: Path | None = None  # a tokenizer or processor folder
    trust_remote_code: bool = False
    max_length: int | None = None  # tokens of a whole sample
    fast_after: int | None = None  # see `TextIds`; where it is given, a run may end with a `WrongIdsError`
    batch_size: int | None = None  # samples a device, of the training to come
    train_config: Path | None = None
    has_eval_split: bool = False
    with_image_contents: bool = False  # of images in a folder that are sound: what `probe` says of them
    homes: tuple[tuple[str, str], ...] = ()  # data files whose image paths start in another folder than their own
    codes: frozenset[str] = DEFAULT_CODES

    def rules(self, stage: Stage) -> tuple[AnyRule, ...]:
        """The selected rules of a stage that can run with these settings."""
        return tuple(
            rule for rule in ALL_RULES if rule.code in self.codes and rule.stage is stage and not self.skip_reason(rule)
        )

    def skip_reason(self, rule: AnyRule) -> str:
        """Why a rule cannot run with these settings; empty where it can."""
        levels = list(ImageCheck)
        if levels.index(self.images) < levels.index(rule.needs):
            return f"needs --images {rule.needs.value}, runs with --images {self.images.value}"
        return "" if rule.requires is None or self._has(rule.requires) else rule.requires.value

    def _has(self, requirement: Requirement) -> bool:
        return {
            Requirement.MODEL: self.model is not None,
            Requirement.MAX_LENGTH: self.model is not None and self.max_length is not None,
            Requirement.BATCH_SIZE: self.batch_size is not None,
            Requirement.EVAL_SPLIT: self.has_eval_split,
            Requirement.TRAIN_CONFIG: self.train_config is not None,
            Requirement.NEAR: near.is_available(),
        }[requirement]


@dataclass(frozen=True, slots=True)
class CheckedRecord:
    """A record that satisfies the schema, and one probe for each entry of its `images`."""

    record: Record
    probes: tuple[ImageProbe, ...]
    row: Row = field(compare=False, repr=False)  # as it was read


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """What is to be said of a line, and its records (two of a paired line) as far as they satisfy the schema."""

    line: Line
    findings: tuple[Finding, ...]
    samples: tuple[CheckedRecord, ...]
    labels: tuple[bool | None, ...]  # of each of its records, readable or not; none of a blank line
    format: str  # the format it is written in; empty where it could not be told
    unmapped_images: bool  # it has images that the column mapping leaves out
    source: str = ""  # as it names it; empty where it names none, or it cannot be read

    @property
    def is_trainable(self) -> bool:
        """Whether nothing worse than a warning was found, in any of its records."""
        return bool(self.samples) and not any(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def has_image_faults(self) -> bool:
        """Whether something was found about its images, which may be mended while the line stays as it is."""
        return any(finding.code in _IMAGE_CODES for finding in self.findings)


class LineChecker:
    """Checks lines of one layout. Make one a process: it remembers the images it has looked at."""

    def __init__(self, layout: Layout, settings: CheckSettings) -> None:
        self.layout = layout
        self.settings = settings
        self._row_rules = settings.rules(Stage.ROW)
        self._image_rules = settings.rules(Stage.IMAGE)
        self._row_images_rules = settings.rules(Stage.ROW_IMAGES)
        self._probe = lru_cache(maxsize=_IMAGES_REMEMBERED)(self._probe_anew)
        self._clean_kinds: dict[tuple[str | int, ...], bool] = {}
        self._is_clean = lru_cache(maxsize=_IMAGES_REMEMBERED)(self._is_clean_anew)
        self._root = lru_cache(self._find_root)
        # Whether rules look at more of a sound image than its header and its suffix.
        self._looks_closer = settings.images is ImageCheck.DECODE or not settings.codes.isdisjoint(_PATH_CODES)

    def check(self, line: Line) -> CheckedLine:
        """All findings of the row and image rules about `line`, in the order of their codes, and its records."""
        from kto_data.read import read_rows  # and with it pydantic, which clean data need not wait for

        findings: dict[Finding, None] = {}  # the two records of a paired line share a prompt, and what is wrong with it
        samples = []
        rows = read_rows(line, self.layout)
        for row in rows:
            probes = self.probes([path for _, path in row.image_paths], line.path)
            for rule, defect in _first_of_each(self._defects(row, probes)):
                findings[row_finding(rule, defect, row)] = None
            if row.record is not None:
                samples.append(CheckedRecord(row.record, tuple(probes[path] for path in row.record.images), row))
        return CheckedLine(
            line=line,
            findings=tuple(sorted(findings, key=Finding.sort_key)),
            samples=tuple(samples),
            labels=() if _is_blank(rows[0]) else tuple(row.label for row in rows),
            format=rows[0].format if rows[0].value is not None else "",
            unmapped_images=any(row.unmapped_images for row in rows),
            source=rows[0].source,
        )

    def ahead(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The lines of a data file as they are, the images of the next ones looked at already: see `look_ahead`."""
        lines = iter(lines)
        while some := tuple(islice(lines, _LINES_AHEAD)):
            self.look_ahead(some, some[0].path)
            yield from some

    def look_ahead(self, lines: Iterable[Line], data_path: str) -> None:
        """Look at the images of lines of the data file `data_path` now, many at a time, if they lie below a URL."""
        root = self._root(data_path)
        if storage.is_url(root):
            from kto_data.read import read_rows

            rows = (row for line in lines for row in read_rows(line, self.layout))
            found = {path: None for row in rows for _, path in row.image_paths}
            storage.at_once(lambda path: self._probe(path, root), found)

    def probes(self, paths: Sequence[str], data_path: str) -> dict[str, ImageProbe]:
        """What is known of the images of a record of the data file `data_path`, by their paths in it."""
        root = self._root(data_path) if paths else ""
        return {given: self._probe(given, root) for given in paths}

    def _image_defects(self, image: ImageProbe) -> Iterator[tuple[AnyRule, Defect]]:
        facts = ImageFacts(image, self.settings.budget)
        for rule in self._image_rules:
            yield from run_rule(rule, facts)

    def are_clean_images(self, paths: Sequence[str], data_path: str) -> bool:
        """Whether no rule finds anything about the images of a record of the data file `data_path`, one by one or
        together."""
        root = self._root(data_path)
        for path in paths:
            if not self._is_clean(path, root):
                return False
        if len(paths) < 2 and self.settings.row_max_pixels is None:
            return True  # of one image its own rules say all there is to say
        return next(self._row_images_defects([self._probe(path, root) for path in paths]), None) is None

    def areas(self, paths: Sequence[str], data_path: str) -> Iterator[int]:
        """Pixels of the images of a record of the data file `data_path`, of those that were looked at."""
        root = self._root(data_path)
        for path in paths:
            header = self._probe(path, root).header
            if header is not None:
                yield header.pixels

    def _defects(self, row: Row, probes: dict[str, ImageProbe]) -> Iterator[tuple[AnyRule, Defect]]:
        for rule in self._row_rules:
            yield from run_rule(rule, row)
        for index, path in row.image_paths:
            for rule, defect in self._image_defects(probes[path]):
                yield rule, replace(defect, pointer=f"/images/{index}")
        for rule, defect in self._row_images_defects([probes[path] for _, path in row.image_paths]):
            yield rule, replace(defect, pointer="/images")

    def _row_images_defects(self, probes: Sequence[ImageProbe]) -> Iterator[tuple[AnyRule, Defect]]:
        if probes:
            facts = RowImages(tuple(probes), self.settings.budget, self.settings.row_max_pixels)
            for rule in self._row_images_rules:
                yield from run_rule(rule, facts)

    def _find_root(self, data_path: str) -> str:
        # Of standard input the folder is the current one.
        home = dict(self.settings.homes).get(data_path) or os.path.dirname(data_path)
        root = os.fspath(self.settings.image_root or home)
        return root if storage.is_url(root) else os.path.realpath(root)

    def _is_clean_anew(self, given: str, root: str) -> bool:
        found = self._probe(given, root)
        header = found.header
        if header is None or found.status is not ProbeStatus.OK or self._looks_closer:
            return next(self._image_defects(found), None) is None
        # Of an image that is whole the rules judge the header and the suffix, and many images are alike in both.
        kind = (
            given.rpartition(".")[2], header.format, header.mode, header.width, header.height,
            header.orientation, header.num_frames, header.has_transparency,
        )  # fmt: skip
        if kind not in self._clean_kinds:
            if len(self._clean_kinds) >= _IMAGES_REMEMBERED:
                self._clean_kinds.clear()
            self._clean_kinds[kind] = next(self._image_defects(found), None) is None
        return self._clean_kinds[kind]

    def _probe_anew(self, given: str, root: str) -> ImageProbe:
        if storage.is_url(root):
            return remote_image.probe(given, root, self.settings.images)
        if self.settings.images is ImageCheck.OFF:
            return _judge_by_name(given, root)
        return probe(given, root, self.settings.images, with_content=self.settings.with_image_contents)


def check_dataset(facts: DatasetFacts, settings: CheckSettings) -> Iterator[Finding]:
    """The findings about all records together, the column mapping and the training's config: what a run says after
    its last line.

    They come by code, and of each rule in the order that it gives them; behind them the rules that crashed. There may
    be as many as rows, and none of them is kept here. Raises `ConfigError` where that config cannot be read.
    """
    config = _config_facts(facts, settings)
    crashed: list[Finding] = []
    rules = (*settings.rules(Stage.CONFIG), *settings.rules(Stage.DATASET))
    for rule in sorted(rules, key=lambda rule: rule.code):
        for finding in dataset_findings(rule, config if rule.stage is Stage.CONFIG else facts, facts):
            if finding.code == rule.code:
                yield finding
            else:
                crashed.append(finding)
    yield from crashed


def _config_facts(facts: DatasetFacts, settings: CheckSettings) -> ConfigFacts:
    return replace(
        facts.config,
        plan=read_train_plan(settings.train_config) if settings.train_config else None,
        num_desirable=facts.num_desirable,
        num_undesirable=facts.num_undesirable,
        has_eval_split=settings.has_eval_split,
        budget=settings.budget,
    )


def _first_of_each(found: Iterable[tuple[AnyRule, Defect]]) -> Iterator[tuple[AnyRule, Defect]]:
    """What the rules found in one row; of each the first defects alone, then one that says how many more there are."""
    counts: Counter[str] = Counter()
    further: dict[str, tuple[AnyRule, Defect]] = {}
    for rule, defect in found:
        counts[rule.code] += 1
        if counts[rule.code] <= _LISTED_A_ROW:
            yield rule, defect
        else:
            further.setdefault(rule.code, (rule, defect))
    for code, (rule, defect) in further.items():
        yield rule, Defect(f"{counts[code] - _LISTED_A_ROW:,} more of these in this record", severity=defect.severity)


def _is_blank(row: Row) -> bool:
    return any(fact.problem is SyntaxProblem.BLANK_LINE for fact in row.facts)


def _judge_by_name(given: str, root: str) -> ImageProbe:
    """What a path says of itself, where files are not to be looked at."""
    if "://" in given or given.startswith("data:"):
        return ImageProbe(given=given, tried=given, status=ProbeStatus.REMOTE)
    tried = os.path.normpath(os.path.join(root, given))
    escapes = os.path.commonpath([root, tried]) != root
    return ImageProbe(given=given, tried=tried, status=ProbeStatus.ESCAPES_ROOT if escapes else ProbeStatus.OK)

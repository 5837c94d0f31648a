"""The loop of `ktodata validate`: files to findings, in parallel over chunks and in the order of the data.

    Input(s) ─▶ chunks ─▶ _ChunkReport(s) ─▶ Validation

Every rule looks at every record. Findings are handed to `listen` as they come; of each rule the first are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from kto_data.check import CheckSettings, LineChecker, check_dataset
from kto_data.chunk import Chunk
from kto_data.clean import Gate, Sifted
from kto_data.engine import local
from kto_data.engine.contract import Engine, Work
from kto_data.errors import InputError
from kto_data.finding import Finding, Location, Severity
from kto_data.formats import Layout
from kto_data.inputs import ALL_ROWS, Excerpt, Input, paths_read
from kto_data.lost import LOST_CODE, lost_rows
from kto_data.noting import note
from kto_data.rules import ALL_RULES
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.rules.facts import Cut, DatasetFacts
from kto_data.rules.files import LINE_ENDING_CODES
from kto_data.rules.run import findings_truncated
from kto_data.rules.suppression import unused_suppression
from kto_data.ruling import as_finding
from kto_data.survey import survey
from kto_data.triage import Triage
from kto_data.validation import InputCount, RuleCount, Validation

_ROWS_PER_CHUNK = 2_000  # some megabytes: enough to make the way to a worker and back cheap

Listen = Callable[[Sequence[Finding]], None]
"""Told the findings of a run of rows, in order."""

Progress = Callable[[int, float | None, int], None]
"""Told the number of rows read so far, about what share of all that is, where it is known, and how many pieces of work
an engine has lost."""


def validate(
    inputs: Sequence[Input],
    settings: CheckSettings,
    *,
    excerpt: Excerpt = ALL_ROWS,
    triage: Triage | None = None,
    jobs: int = 1,
    engine: Engine = local.run,
    listen: Listen = lambda findings: None,
    progress: Progress = lambda num_rows, share, num_lost: None,
) -> Validation:
    """Check all records of all inputs, then what only all together can show.

    Raises `InputError` when a file cannot be read, or there is no record in any of them, and `WrongIdsError`
    where tokens may have been counted wrongly: then with `fast_after` None they would not be.
    """
    counts: dict[str, RuleCount] = {}
    triage = triage or Triage()
    read = {entry.source.path: InputCount(entry.source.path, split=entry.split) for entry in inputs}
    facts = DatasetFacts(settings.batch_size)
    num_rows = num_lost = 0
    reach = _Reach(inputs if excerpt is ALL_ROWS else ())
    if settings.model is not None:  # a model that cannot be loaded is told of here, not by a worker that dies
        from kto_data.model_check import the_processor

        the_processor(settings.model, settings.trust_remote_code)
    work = Work(
        _check_unit, _start, (settings,),
        is_alone=lambda unit: unit.chunk.is_huge, may_fork=settings.model is None, if_lost=_lost,
        reads=paths_read(inputs, settings.image_root, settings.model),
    )  # fmt: skip
    for report in engine(work, reach.drawn(_units(inputs, excerpt)), jobs=jobs):
        facts.extend(report.facts)
        entry = read[report.facts.path]
        entry.num_rows += report.num_rows
        entry.num_rows_ok += report.num_rows_ok
        findings = triage.sort_out(report.findings)
        _count(findings, counts)
        if findings:
            listen(findings)
        num_rows += report.num_rows
        num_lost += any(finding.code == LOST_CODE for finding in report.findings)
        progress(num_rows, reach.after_next(), num_lost)
    if not num_rows:
        raise InputError("there are no rows, only blank lines", hint="check that whatever wrote the data was finished")
    order = {path: index for index, path in enumerate(read)}
    overall = sorted(
        check_dataset(facts, settings),
        key=lambda finding: (finding.code, order.get(finding.location.path, len(order)), finding.location.line or 0),
    )
    overall = triage.sort_out(overall)
    overall += triage.sort_out(_unused_suppressions(triage, facts, settings))
    _count(overall, counts)
    _apply_thresholds(triage, counts, num_rows)
    overall += _cut_short(counts)
    if overall:
        listen(overall)
    chosen = [rule for rule in ALL_RULES if rule.code in settings.codes]
    return Validation(
        inputs=tuple(read.values()),
        counts=counts,
        rules=tuple(rule for rule in chosen if not settings.skip_reason(rule)),
        skipped=tuple((rule, reason) for rule in chosen if (reason := settings.skip_reason(rule))),
        num_desirable=facts.num_desirable,
        num_undesirable=facts.num_undesirable,
        hidden=triage.hidden,
        survey=survey(facts),
    )


def _count(findings: Iterable[Finding], counts: dict[str, RuleCount]) -> None:
    for finding in findings:
        if finding.code not in counts:
            counts[finding.code] = RuleCount(next(rule for rule in ALL_RULES if rule.code == finding.code))
        counts[finding.code].add(finding)


def _unused_suppressions(triage: Triage, facts: DatasetFacts, settings: CheckSettings) -> Iterator[Finding]:
    """What only the end of a run can tell: the suppressions that hid nothing."""
    if unused_suppression.code in settings.codes:
        unused = tuple((entry.place, str(entry)) for entry in triage.unused(settings.codes))
        for defect in unused_suppression.check(replace(facts.config, unused_suppressions=unused)):
            assert defect.path is not None
            yield as_finding(unused_suppression, defect, Location(path=defect.path))


def _apply_thresholds(triage: Triage, counts: dict[str, RuleCount], num_rows: int) -> None:
    """How severe a rule's findings are where that depends on how many there are."""
    for code, threshold in triage.thresholds.items():
        if code in counts:
            count = counts[code]
            severity = threshold.severity(count.num_rows or count.count, num_rows)
            count.set_severity(severity)
            count.is_tolerated = severity is Severity.INFO


def _cut_short(counts: dict[str, RuleCount]) -> list[Finding]:
    """What is to be said of the rules that found more than is kept; counted like all findings."""
    told = []
    for code, count in sorted(counts.items()):
        if count.count > len(count.findings):
            cut = Cut(code, count.count, len(count.findings), count.findings[0].location.path)
            for defect in findings_truncated.check(cut):
                told.append(as_finding(findings_truncated, defect, Location(path=cut.path)))
    _count(told, counts)
    return told


@dataclass(frozen=True, slots=True)
class _Unit:
    chunk: Chunk
    layout: Layout
    split: str


@dataclass(frozen=True, slots=True)
class _ChunkReport:
    num_rows: int
    num_rows_ok: int
    findings: tuple[Finding, ...]
    facts: ChunkFacts


class _Reach:
    """How far a run is, by the bytes of the chunks that are done."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        """`inputs`: all that is to be read; none where that is not known."""
        can_tell = all(entry.source.kind.tells_place for entry in inputs)
        self._num_all = sum(entry.source.num_bytes or 0 for entry in inputs) if can_tell else 0
        self._num_done = 0
        self._under_way: deque[int] = deque()

    def drawn(self, units: Iterable[_Unit]) -> Iterator[_Unit]:
        """The units, as they are."""
        for unit in units:
            self._under_way.append(unit.chunk.byte_stop - unit.chunk.byte_start)
            yield unit

    def after_next(self) -> float | None:
        """The share of all, 0 to 1, now that one more unit is done; None where it is not known."""
        self._num_done += self._under_way.popleft()
        return min(1.0, self._num_done / self._num_all) if self._num_all else None


def _lost(unit: _Unit) -> _ChunkReport:
    facts = ChunkFacts(unit.chunk.path, unit.split)
    return _ChunkReport(unit.chunk.num_rows, 0, (lost_rows(unit.chunk),), facts)


def _units(inputs: Sequence[Input], excerpt: Excerpt) -> Iterator[_Unit]:
    for entry, chunk in excerpt.chunks(inputs, _ROWS_PER_CHUNK):
        yield _Unit(chunk, entry.layout, entry.split)


class _Worker:
    """What is made once a process."""

    def __init__(self, settings: CheckSettings) -> None:
        self._settings = settings
        self._gates: list[tuple[Layout, LineChecker, Gate]] = []

    def check(self, unit: _Unit) -> _ChunkReport:
        checker, gate = self._tools(unit.layout)
        facts = ChunkFacts(unit.chunk.path, unit.split)
        findings: list[Finding] = []
        num_rows = num_bad = 0
        for block in unit.chunk.blocks():
            checker.look_ahead(map(block.line, range(len(block))), unit.chunk.path)
            sifted = gate.sift(block)
            _note_clean_images(sifted, checker, facts)
            numbers = block.numbers
            start = done = 0  # lines, and those of them that are clean
            for stop in (*sifted.doubtful, len(block)):
                if start < stop:
                    run = slice(done, done + stop - start)
                    facts.add_format(gate.format, numbers[start])
                    facts.add_samples(
                        sifted.prompts[run], sifted.completions[run], numbers[start:stop], sifted.lengths[run],
                        sifted.shapes[run],
                    )  # fmt: skip
                    done += stop - start
                if stop < len(block):
                    checked = checker.check(block.line(stop))
                    note(checked, facts, self._settings.codes)
                    findings += checked.findings
                    num_rows += bool(checked.labels)
                    num_bad += bool(checked.labels) and not checked.is_trainable
                start = stop + 1
            num_rows += done
        return _ChunkReport(num_rows, num_rows - num_bad, tuple(findings), facts)

    def _tools(self, layout: Layout) -> tuple[LineChecker, Gate]:
        for known, checker, gate in self._gates:
            if known == layout:
                return checker, gate
        checker = LineChecker(layout, self._settings)
        gate = Gate(checker)
        self._gates.append((layout, checker, gate))
        return checker, gate


def _note_clean_images(sifted: Sifted, checker: LineChecker, facts: ChunkFacts) -> None:
    for place, images in sifted.images.items():
        for pixels in checker.areas(images, facts.path):
            facts.add_image(sifted.shapes[place][0], pixels)


class _ModelWorker:
    """What is made once a process where a model is given: every record is measured, so that no gate can save time."""

    def __init__(self, settings: CheckSettings) -> None:
        from kto_data.model_check import ModelChecker  # and with it pydantic, which others need not wait for

        self._codes = settings.codes
        self._checker = ModelChecker(settings)

    def check(self, unit: _Unit) -> _ChunkReport:
        facts = ChunkFacts(unit.chunk.path, unit.split)
        findings: list[Finding] = []
        num_rows = num_bad = 0
        for measured in self._checker.check(unit.chunk.lines(), unit.layout):
            checked = measured.checked
            note(checked, facts, self._codes)
            facts.tokens.extend(measured.num_tokens)
            findings += checked.findings
            if checked.labels:
                num_rows += 1
                num_bad += not checked.is_trainable
        return _ChunkReport(num_rows, num_rows - num_bad, tuple(findings), facts)


_worker: _Worker | _ModelWorker | None = None  # of this process
_wants_endings = False


def _start(settings: CheckSettings) -> None:
    global _worker, _wants_endings
    _wants_endings = not LINE_ENDING_CODES.isdisjoint(settings.codes)
    _worker = _ModelWorker(settings) if settings.model is not None else _Worker(settings)


def _check_unit(unit: _Unit) -> _ChunkReport:
    assert _worker is not None
    report = _worker.check(unit)
    if _wants_endings:
        report.facts.endings = unit.chunk.endings()
    return report

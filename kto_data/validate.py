"""The loop of `ktodata validate`: files to findings, in parallel over chunks and in the order of the data.

    Input(s) ─▶ Unit(s) ─▶ UnitReport(s) ─▶ Validation

Every rule looks at every record. Findings are handed to `listen` as they come; of each rule the first are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from kto_data.check import CheckSettings, check_dataset
from kto_data.engine import local
from kto_data.engine.contract import Engine, Work
from kto_data.errors import InputError
from kto_data.examine import Unit, UnitReport, check_unit, lost, start
from kto_data.finding import Finding, Location, Severity
from kto_data.inputs import ALL_ROWS, Excerpt, Input, num_bytes, paths_read
from kto_data.lost import LOST_CODE
from kto_data.rules import ALL_RULES
from kto_data.rules.facts import Cut, DatasetFacts
from kto_data.rules.run import findings_truncated
from kto_data.rules.suppression import unused_suppression
from kto_data.ruling import as_finding
from kto_data.survey import survey
from kto_data.triage import Triage
from kto_data.validation import InputCount, RuleCount, Validation

_ROWS_PER_CHUNK = 2_000  # some megabytes: enough to make the way to a worker and back cheap
_TOLD_AT_ONCE = 1_000  # findings about all rows together

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
    run = _Run(inputs, settings, triage or Triage(), listen)
    reach = _Reach(inputs if excerpt is ALL_ROWS else ())
    if settings.model is not None:  # a model that cannot be loaded is told of here, not by a worker that dies
        from kto_data.model_check import the_processor

        the_processor(settings.model, settings.trust_remote_code)
    work = Work(
        check_unit, start, (settings,),
        is_alone=lambda unit: unit.chunk.is_huge, may_fork=settings.model is None, if_lost=lost,
        reads=paths_read(inputs, settings.image_root, settings.model),
        name=lambda unit: f"validate {unit.chunk.place}",
    )  # fmt: skip
    for report in engine(work, reach.drawn(_units(inputs, excerpt)), jobs=jobs):
        run.add(report)
        progress(run.num_rows, reach.after_next(), run.num_lost)
    if not run.num_rows:
        raise InputError("there are no rows, only blank lines", hint="check that whatever wrote the data was finished")
    run.conclude()
    return run.validation()


class _Run:
    """What has been found so far: sorted out, counted and told of as it comes."""

    def __init__(self, inputs: Sequence[Input], settings: CheckSettings, triage: Triage, listen: Listen) -> None:
        self.num_rows = self.num_lost = 0  # rows read, units lost
        self._settings = settings
        self._triage = triage
        self._listen = listen
        self._read = {entry.source.path: InputCount(entry.source.path, split=entry.split) for entry in inputs}
        self._facts = DatasetFacts(settings.batch_size)
        self._counts: dict[str, RuleCount] = {}

    def add(self, report: UnitReport) -> None:
        """Take in the next unit, in the order of the data."""
        self._facts.extend(report.facts)
        entry = self._read[report.facts.path]
        entry.num_rows += report.num_rows
        entry.num_rows_ok += report.num_rows_ok
        self.num_rows += report.num_rows
        self.num_lost += any(finding.code == LOST_CODE for finding in report.findings)
        self._tell(self._triage.sort_out(report.findings))

    def conclude(self) -> None:
        """Find what only all rows together show, and what only the end of a run can tell."""
        found = check_dataset(self._facts, self._settings)
        while some := list(islice(found, _TOLD_AT_ONCE)):  # there may be as many as rows
            self._tell(self._triage.sort_out(some))
        self._tell(self._triage.sort_out(self._unused_suppressions()))
        self._apply_thresholds()
        self._tell(list(self._cut_short()))

    def validation(self) -> Validation:
        """All of it."""
        chosen = [rule for rule in ALL_RULES if rule.code in self._settings.codes]
        reasons = {rule.code: self._settings.skip_reason(rule) for rule in chosen}
        return Validation(
            inputs=tuple(self._read.values()),
            counts=self._counts,
            rules=tuple(rule for rule in chosen if not reasons[rule.code]),
            skipped=tuple((rule, reasons[rule.code]) for rule in chosen if reasons[rule.code]),
            num_desirable=self._facts.num_desirable,
            num_undesirable=self._facts.num_undesirable,
            hidden=self._triage.hidden,
            survey=survey(self._facts),
        )

    def _tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            if finding.code not in self._counts:
                self._counts[finding.code] = RuleCount(next(rule for rule in ALL_RULES if rule.code == finding.code))
            self._counts[finding.code].add(finding)
        if findings:
            self._listen(findings)

    def _unused_suppressions(self) -> Iterator[Finding]:
        """The suppressions that hid nothing."""
        if unused_suppression.code in self._settings.codes:
            unused = tuple((entry.place, str(entry)) for entry in self._triage.unused(self._settings.codes))
            for defect in unused_suppression.check(replace(self._facts.config, unused_suppressions=unused)):
                assert defect.path is not None
                yield as_finding(unused_suppression, defect, Location(path=defect.path))

    def _apply_thresholds(self) -> None:
        """How severe a rule's findings are where that depends on how many there are."""
        for code, threshold in self._triage.thresholds.items():
            if code in self._counts:
                count = self._counts[code]
                severity = threshold.severity(count.num_rows or count.count, self.num_rows)
                count.set_severity(severity)
                count.is_tolerated = severity is Severity.INFO

    def _cut_short(self) -> Iterator[Finding]:
        """What is to be said of the rules that found more than is kept."""
        for code, count in sorted(self._counts.items()):
            if count.count > len(count.findings):
                cut = Cut(code, count.count, len(count.findings), count.findings[0].location.path)
                for defect in findings_truncated.check(cut):
                    yield as_finding(findings_truncated, defect, Location(path=cut.path))


class _Reach:
    """How far a run is, by the bytes of the chunks that are done."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        """`inputs`: all that is to be read; none where that is not known."""
        self._num_all = num_bytes(inputs) or 0
        self._num_done = 0
        self._under_way: deque[int] = deque()

    def drawn(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """The units, as they are."""
        for unit in units:
            self._under_way.append(unit.chunk.byte_stop - unit.chunk.byte_start)
            yield unit

    def after_next(self) -> float | None:
        """The share of all, 0 to 1, now that one more unit is done; None where it is not known."""
        self._num_done += self._under_way.popleft()
        return min(1.0, self._num_done / self._num_all) if self._num_all else None


def _units(inputs: Sequence[Input], excerpt: Excerpt) -> Iterator[Unit]:
    for entry, chunk in excerpt.chunks(inputs, _ROWS_PER_CHUNK):
        yield Unit(chunk, entry.layout, entry.split)

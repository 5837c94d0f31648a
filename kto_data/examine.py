"""One piece of the work of validation: a run of rows to what was found in it, and what it says of the whole.

    Unit ─▶ UnitReport

Lines that are plainly clean are told by a `Gate`, the others are checked one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from kto_data.check import CheckSettings, LineChecker
from kto_data.chunk import Chunk
from kto_data.clean import Gate
from kto_data.finding import Finding
from kto_data.formats import Layout
from kto_data.lost import lost_rows
from kto_data.noting import note
from kto_data.plain import Sifted
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.rules.files import LINE_ENDING_CODES


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work."""

    chunk: Chunk
    layout: Layout
    split: str


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What was found in a unit, in the order of its lines."""

    num_rows: int  # blank lines are none
    num_rows_ok: int  # rows without an error
    findings: tuple[Finding, ...]
    facts: ChunkFacts


class _Worker:
    """What is made once a process."""

    def __init__(self, settings: CheckSettings) -> None:
        self._settings = settings
        self._gates: list[tuple[Layout, LineChecker, Gate]] = []

    def check(self, unit: Unit) -> UnitReport:
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
        return UnitReport(num_rows, num_rows - num_bad, tuple(findings), facts)

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

    def check(self, unit: Unit) -> UnitReport:
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
        return UnitReport(num_rows, num_rows - num_bad, tuple(findings), facts)


_worker: _Worker | _ModelWorker | None = None  # of this process
_wants_endings = False


def start(settings: CheckSettings) -> None:
    """Make ready a process that is to check units."""
    global _worker, _wants_endings
    _wants_endings = not LINE_ENDING_CODES.isdisjoint(settings.codes)
    _worker = _ModelWorker(settings) if settings.model is not None else _Worker(settings)


def check_unit(unit: Unit) -> UnitReport:
    """Check the rows of a unit, in a process that is made ready."""
    assert _worker is not None
    report = _worker.check(unit)
    if _wants_endings:
        report.facts.endings = unit.chunk.endings()
    return report


def lost(unit: Unit) -> UnitReport:
    """What is said of a unit that kills whoever checks it."""
    facts = ChunkFacts(unit.chunk.path, unit.split)
    return UnitReport(unit.chunk.num_rows, 0, (lost_rows(unit.chunk),), facts)

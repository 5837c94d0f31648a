"""One chunk of an input file to one shard: the work that preprocessing hands to an engine.

    Chunk ─▶ Line(s) ─▶ checked records ─▶ ids ─▶ shard, counts, findings, rejects

Every line that is read is either kept, or dropped under the code of a rule; which, is decided here and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kto_data.check import CheckedLine, CheckSettings, LineChecker, note_shape
from kto_data.chunk import Chunk, Line
from kto_data.encode import TOO_LONG_CODES, Encoded, Encoder, Refused
from kto_data.finding import Finding, Severity
from kto_data.formats import Layout
from kto_data.image import ImageCheck, PixelBudget
from kto_data.manifest import Shard
from kto_data.model_check import RECORDS_AT_ONCE, as_sample, batches, refusal
from kto_data.policy import Invalid, TooLong
from kto_data.processor import load_processor
from kto_data.rejects import reject_entry
from kto_data.rules.facts import ChunkFacts
from kto_data.shard import CachedRow, write_shard
from kto_data.tally import Tally, TallyBuilder

_REMEMBERED_DIGESTS = 100_000  # image files whose SHA-256 is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """All that decides what becomes of a line."""

    model: str
    trust_remote_code: bool = False
    image_root: Path  # resolved
    budget: PixelBudget
    max_length: int | None = None
    too_long: TooLong = TooLong.ERROR
    invalid: Invalid = Invalid.ERROR


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work."""

    chunk: Chunk
    layout: Layout
    folder: Path  # where the shard goes
    name: str  # the shard's file name


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a unit. `shard` is None where no row was kept."""

    shard: Shard | None
    tally: Tally
    facts: ChunkFacts  # formats and unmapped images alone; samples are in the tally
    findings: tuple[Finding, ...]
    rejects: tuple[bytes, ...]  # one JSON object each


class Builder:
    """Builds shards; holds what is loaded once a process."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        processor = load_processor(settings.model, trust_remote_code=settings.trust_remote_code)
        self._encoder = Encoder(processor, max_length=settings.max_length, too_long=settings.too_long)
        self._last_checker: LineChecker | None = None
        self._digest = lru_cache(_REMEMBERED_DIGESTS)(_sha256)

    def build(self, unit: Unit) -> Built:
        """Read, check and encode the unit's lines and write its shard.

        Raises `InputError` when the shard cannot be written.
        """
        output = _Output(unit.chunk.path)
        checker = self._checker(unit.layout)
        for batch in batches((checker.check(line) for line in unit.chunk.lines()), RECORDS_AT_ONCE):
            self._build_batch(batch, output)
        shard = write_shard(unit.folder, unit.name, output.rows) if output.rows else None
        return Built(shard, output.tally.finish(), output.facts, tuple(output.findings), tuple(output.rejects))

    def _checker(self, layout: Layout) -> LineChecker:
        """The checker of the files at hand, kept for what it remembers of images while their layout stays."""
        if self._last_checker is None or self._last_checker.layout != layout:
            settings = CheckSettings(
                images=ImageCheck.HEADER, image_root=self.settings.image_root, budget=self.settings.budget
            )
            self._last_checker = LineChecker(layout, settings)
        return self._last_checker

    def _build_batch(self, batch: list[CheckedLine], output: _Output) -> None:
        """Encode the sound lines of a batch together, then hand out all of its lines in order."""
        sound = [checked for checked in batch if checked.is_trainable]
        samples = [as_sample(item, self.settings.budget, self._digest) for checked in sound for item in checked.samples]
        answers = iter(self._encoder.encode(samples))
        for checked in batch:
            output.findings += checked.findings
            note_shape(checked, output.facts)
            for label in checked.labels:
                output.tally.read(label)
            if not checked.labels:
                continue  # a blank line, reported and no record
            if not checked.is_trainable:
                codes = sorted({f.code for f in checked.findings if f.severity is Severity.ERROR})
                output.reject(checked.line, codes, checked.labels)
            else:
                self._place(checked, [next(answers) for _ in checked.samples], output)

    def _place(self, checked: CheckedLine, answers: list[Encoded | Refused], output: _Output) -> None:
        line, both = checked.line, list(zip(checked.samples, answers, strict=True))
        refused = [(item, answer) for item, answer in both if isinstance(answer, Refused)]
        if refused:
            # A line stands or falls as a whole: half of a pair would shift the balance of the labels.
            dropping = self.settings.too_long is TooLong.DROP and all(a.code in TOO_LONG_CODES for _, a in refused)
            if not dropping:
                output.findings += [refusal(answer, item) for item, answer in refused]
            output.reject(line, sorted({answer.code for _, answer in refused}), checked.labels)
            return
        for item, answer in both:
            assert isinstance(answer, Encoded)
            record = item.record
            record_id = None if record.id is None else str(record.id)
            output.rows.append(CachedRow(answer, record.label, line.path, line.number, record_id))
            output.tally.keep(record, answer)


class _Output:
    """What a unit has given so far."""

    def __init__(self, path: str) -> None:
        self.facts = ChunkFacts(path)
        self.rows: list[CachedRow] = []
        self.tally = TallyBuilder()
        self.findings: list[Finding] = []
        self.rejects: list[bytes] = []

    def reject(self, line: Line, codes: list[str], labels: Iterable[bool | None]) -> None:
        for label in labels:
            self.tally.drop(codes[0], label)
        self.rejects.append(reject_entry(line, codes))


_builder: Builder | None = None


def start(settings: BuildSettings) -> None:
    """Load the model's processor in this process, before its first unit."""
    global _builder
    # One thread a process: the engine's jobs already use every processor.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _builder = Builder(settings)


def build(unit: Unit) -> Built:
    """Build one unit with what `start` loaded."""
    assert _builder is not None, "start() comes first"
    return _builder.build(unit)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

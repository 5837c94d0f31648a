"""Lines and what a model makes of their records: the check of `validate` where a model is given.

    Line(s) ─▶ LineChecker ─▶ CheckedLine(s) ─▶ Encoder ─▶ MeasuredLine(s)

What turns a checked record into a sample, and a refusal into a finding, serves `preprocess` too: the two say the same
of a record and of its tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from kto_data.check import (
    DEFAULT_CODES,
    CheckedLine,
    CheckedRecord,
    CheckSettings,
    LineChecker,
)
from kto_data.chunk import Line
from kto_data.encode import Encoded, Encoder, ImageRef, Refused, Sample
from kto_data.finding import Finding, Severity
from kto_data.formats import Layout
from kto_data.image import ImageProbe, PixelBudget
from kto_data.processor import Processor, load_processor
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage
from kto_data.rules.tokens import TokenFacts, as_defect
from kto_data.ruling import row_finding, run_rule
from kto_data.text_ids import TextIds, WrongIdsError

RECORDS_AT_ONCE = 256  # records whose texts are tokenized in one call

_RULES = {rule.code: rule for rule in ALL_RULES}


@dataclass(frozen=True, slots=True)
class MeasuredLine:
    """A line with the findings of every stage, and the length of each of its samples in tokens, 0 where unknown."""

    checked: CheckedLine
    num_tokens: tuple[int, ...]


class ModelChecker:
    """Checks lines as a `LineChecker` does, and their sound records with a model. Make one a process."""

    def __init__(self, settings: CheckSettings) -> None:
        assert settings.model is not None
        self._settings = settings
        self._rules = settings.rules(Stage.TOKENS)
        self._of_other_stages = {code for code in settings.codes if _RULES[code].stage is not Stage.TOKENS}
        self._unwanted = {code for code in DEFAULT_CODES - settings.codes if _RULES[code].stage is not Stage.RUN}
        processor = the_processor(settings.model, settings.trust_remote_code)
        processor.text_ids = self._text_ids = TextIds(processor.tokenizer, fast_after=settings.fast_after)
        self._encoder = Encoder(processor, max_length=settings.max_length)
        self._checkers: list[LineChecker] = []

    def check(self, lines: Iterable[Line], layout: Layout) -> Iterator[MeasuredLine]:
        """Every line with its findings, in order.

        Raises `WrongIdsError` where the tokens of some line may have been counted wrongly, of these lines or of others
        before them.
        """
        checker = self._checker(layout)
        for batch in batches(map(checker.check, checker.ahead(lines)), RECORDS_AT_ONCE):
            # Images that were not looked at have no size: then nothing can be said of tokens.
            measured = [
                checked.is_trainable and all(probe.header for item in checked.samples for probe in item.probes)
                for checked in batch
            ]
            samples = [
                as_sample(item, self._settings.budget)
                for checked, is_measured in zip(batch, measured, strict=True)
                if is_measured
                for item in checked.samples
            ]
            answers = iter(self._encoder.encode(samples))
            for checked, is_measured in zip(batch, measured, strict=True):
                of_line = [(item, next(answers) if is_measured else None) for item in checked.samples]
                yield self._measured(checked, of_line)
        if self._text_ids.has_erred:
            raise WrongIdsError(self._text_ids.engine)

    def _checker(self, layout: Layout) -> LineChecker:
        for checker in self._checkers:
            if checker.layout == layout:
                return checker
        # What is sound is not for the choice of rules to say: a record without an answer has no tokens to count.
        self._checkers.append(LineChecker(layout, replace(self._settings, codes=self._settings.codes | DEFAULT_CODES)))
        return self._checkers[-1]

    def _measured(
        self, checked: CheckedLine, answers: list[tuple[CheckedRecord, Encoded | Refused | None]]
    ) -> MeasuredLine:
        found = {finding: None for finding in checked.findings if finding.code not in self._unwanted}
        for item, answer in answers:
            if answer is not None:
                # Both records of a paired line may be too long in the same words.
                found.update(dict.fromkeys(self._findings(item, answer)))
        worst_last = sorted(found, key=lambda finding: -finding.severity.rank)
        # What a row rule takes for some model's control token is an error where it is this one's, and said once.
        unique = {(f.code, f.location, f.message): f for f in worst_last}
        findings = tuple(sorted(unique.values(), key=Finding.sort_key))
        lengths = tuple(0 if answer is None else answer.num_tokens for _, answer in answers)
        return MeasuredLine(replace(checked, findings=findings), lengths)

    def _findings(self, item: CheckedRecord, answer: Encoded | Refused) -> Iterator[Finding]:
        facts = TokenFacts(answer.num_tokens, answer if isinstance(answer, Refused) else None)
        for rule in self._rules:
            for found_by, defect in run_rule(rule, facts):
                yield row_finding(found_by, defect, item.row)
        # Some refusals are of rules that can also be judged without a model.
        if isinstance(answer, Refused) and answer.code in self._of_other_stages:
            yield refusal(answer, item)


@lru_cache(maxsize=1)
def the_processor(model: Path, trust_remote_code: bool) -> Processor:
    """The processor of the one model that a process needs. Raises what `load_processor` raises."""
    # One thread a process: the engine's jobs already use every processor.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return load_processor(model, trust_remote_code=trust_remote_code)


def as_sample(
    item: CheckedRecord, budget: PixelBudget, digest: Callable[[ImageProbe], str] = lambda found: ""
) -> Sample:
    """The record with its images as the model will see them. `digest`: the SHA-256 of an image file."""
    refs = []
    for path, found in zip(item.record.images, item.probes, strict=True):
        assert found.header is not None, "a record whose image has no header has an error"
        width, height = budget.fit(found.header.width, found.header.height)
        refs.append(ImageRef(path, digest(found), width, height, num_tokens=0))
    return Sample(item.record, tuple(refs))


def refusal(refused: Refused, item: CheckedRecord) -> Finding:
    """What is found of a record that cannot be encoded as it is: an error."""
    return row_finding(_RULES[refused.code], replace(as_defect(refused), severity=Severity.ERROR), item.row)


def batches(lines: Iterable[CheckedLine], size: int) -> Iterator[list[CheckedLine]]:
    """Lists of lines with about `size` records each."""
    batch: list[CheckedLine] = []
    num_records = 0
    for line in lines:
        batch.append(line)
        num_records += len(line.samples)
        if num_records >= size:
            yield batch
            batch, num_records = [], 0
    if batch:
        yield batch

"""Outcomes for tests of reports: as large, and as hostile, as data can make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from conftest import make_record, write_jsonl

from kto_data.check import CheckSettings
from kto_data.finding import Finding, Location, Severity
from kto_data.inputs import open_inputs
from kto_data.report.outcome import Outcome, presentable
from kto_data.rules import ALL_RULES
from kto_data.rules.base import AnyRule
from kto_data.validate import validate
from kto_data.validation import RuleCount, Validation

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>'\"&`\u202e\x1b[31m\x00\ud800 "

Words = Callable[[AnyRule, int], str]


def outcome_of(validation: Validation, *, redact: bool = False) -> Outcome:
    return Outcome(validation=presentable(validation, redact=redact), failed=bool(validation.counts), exit_code=1)


def plain_words(rule: AnyRule, number: int) -> str:
    return f"what {rule.name} found: number {number:,}, and some words about it that are as long as messages are"


def clean_validation(folder: Path) -> Validation:
    """Of data in which nothing is found."""
    rows = [make_record(label=index % 2 == 0, id=index, source=f"{index}") for index in range(2)]
    rows[1]["messages"] = [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "No."}]
    validation = validate(open_inputs([str(write_jsonl(folder / "clean.jsonl", rows))]), CheckSettings())
    assert validation.counts == {}
    return validation


def full_validation(
    folder: Path, number: int = 100_000, *, words: Words = plain_words, pointer: str = "/messages/0/content"
) -> Validation:
    """With `number` findings spread over all rules; every second rule has ten times as many as its neighbour."""
    clean = clean_validation(folder)
    path = clean.inputs[0].path
    shares = [10 if index % 2 else 1 for index in range(len(ALL_RULES))]
    counts = {}
    left = number
    for index, (rule, share) in enumerate(zip(ALL_RULES, shares, strict=True)):
        counts[rule.code] = count = RuleCount(rule)
        size = left if index == len(ALL_RULES) - 1 else number * share // sum(shares)
        left -= size
        for line in range(1, size + 1):
            where = Location(path=path, line=line, byte_offset=0, pointer=pointer)
            count.add(
                Finding(
                    code=rule.code, severity=rule.severity, location=where, message=words(rule, line),
                    record_id=f"row {line}", row_hash=f"{line:016x}", fingerprint=f"{rule.code}{line:x}",
                )
            )  # fmt: skip
    inputs = (replace(clean.inputs[0], num_rows=number, num_rows_ok=0),)
    assert sum(count.count for count in counts.values()) == number
    assert {count.severity for count in counts.values()} == set(Severity)
    return replace(clean, counts=counts, rules=tuple(ALL_RULES), skipped=(), inputs=inputs)

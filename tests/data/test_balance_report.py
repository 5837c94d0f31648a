"""The balance report: counts that add up, and properties that give the label away."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from conftest import make_record
from hypothesis import given
from hypothesis import strategies as st

from kto_data.encode import Encoded
from kto_data.record import Record
from kto_data.report.balance import SplitReport, balance_report, render_balance
from kto_data.tally import Tally, TallyBuilder


def record(prompt: str, answer: str, label: bool, **overrides: Any) -> Record:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Record.model_validate_json(orjson.dumps(make_record(messages=messages, label=label, **overrides)))


def tally_of(*records: Record) -> Tally:
    builder = TallyBuilder()
    for item in records:
        text = str(item.completion.content)
        builder.read(item.label)
        builder.keep(item, Encoded([1, 2], list(range(len(text))), (), num_cut=0))
    return builder.finish()


def report_of(*records: Record) -> SplitReport:
    return balance_report({"train": tally_of(*records)}).splits["train"]


def auc(report: SplitReport, name: str) -> float:
    return next(item.auc for item in report.shortcuts if item.property == name)


def test_contradictions_and_duplicates_are_told_apart() -> None:
    report = report_of(
        record("q", "yes", True),
        record("q", "yes", False),  # contradicts
        record("q", "no", True),
        record("q", "no", True),  # repeats
        record("other", "yes", True),
    )
    assert (report.num_contradictions, report.num_duplicates) == (2, 1)
    assert (report.num_prompts, report.num_prompts_with_both_labels) == (2, 1)
    assert [(top.text, top.rows) for top in report.top_completions] == [("yes", 3), ("no", 2)]


def test_length_alone_tells_long_from_short() -> None:
    report = report_of(*(record(str(i), "long" * 9, True) for i in range(4)), record("q", "no", False))
    assert auc(report, "completion length") == 1.0
    assert auc(report, "number of images") == 0.5


def test_a_source_that_decides_the_label_is_pointed_out() -> None:
    report = report_of(
        record("a", "xx", True, source="person"),
        record("b", "xx", True, source="person"),
        record("c", "xx", False, source="model"),
    )
    assert auc(report, "source") == 1.0
    assert any(
        "source alone" in line
        for line in render_balance(
            balance_report(
                {"train": tally_of(record("a", "xx", True, source="person"), record("c", "xx", False, source="model"))}
            )
        )
    )


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(lengths: list[tuple[int, bool]]) -> None:
    report = report_of(*(record(str(i), "x" * n, label) for i, (n, label) in enumerate(lengths)))
    longer = [n for n, label in lengths if label]
    shorter = [n for n, label in lengths if not label]
    if not longer or not shorter:
        assert report.shortcuts == ()
        return
    wins = np.mean([(a > b) + (a == b) / 2 for a in longer for b in shorter])
    assert abs(auc(report, "completion length") - max(wins, 1 - wins)) < 1e-4


@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_chunks_merge_to_what_one_chunk_would_have_counted(first: list[bool], second: list[bool]) -> None:
    one = [record(str(i % 3), "a" * (i % 4 + 1), label) for i, label in enumerate(first)]
    two = [record(str(i % 5), "b" * (i % 2 + 1), label) for i, label in enumerate(second)]
    merged = Tally().merge([tally_of(*one), tally_of(*two)])
    assert balance_report({"train": merged}) == balance_report({"train": tally_of(*one, *two)})


def test_one_label_alone_has_no_balance() -> None:
    lines = render_balance(balance_report({"train": tally_of(record("q", "yes", True))}))
    assert "  balance undefined: one label has no rows, and no weight can balance that" in lines


def test_weights_are_advised_for_what_is_trained() -> None:
    rows = [record(str(i), "x", i > 0) for i in range(4)]
    lines = render_balance(balance_report({"train": tally_of(*rows), "eval": tally_of(*rows)}))
    assert sum("weights: {desirable:" in line for line in lines) == 1
    assert max(map(len, lines)) <= 100

from __future__ import annotations

import json
import random
from array import array
from typing import Any

import pytest
from conftest import make_record
from hypothesis import given
from hypothesis import strategies as st

from kto_data.noting import describe
from kto_data.record import Record
from kto_data.remarks import remarks
from kto_data.rules.chunk_facts import ChunkFacts, rounded_area
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import OTHER_SOURCES
from kto_data.rules.traits import improbable_run, label_order
from kto_data.survey import LabelCounts, RepeatedCompletion, Survey, survey


def record(ask: str, say: str, label: bool, **more: Any) -> Record:
    turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]
    return Record.model_validate_json(json.dumps(make_record(messages=turns, label=label, **more)))


def chunk(*records: Record, split: str = "train", path: str = "a.jsonl") -> ChunkFacts:
    facts = ChunkFacts(path, split)
    for line, entry in enumerate(records, start=1):
        digest, length, shape = describe(entry)
        facts.add_sample(digest, line, length, shape)
    return facts


def surveyed(*chunks: ChunkFacts, batch_size: int | None = None) -> Survey:
    facts = DatasetFacts(batch_size)
    for entry in chunks:
        facts.extend(entry)
    return survey(facts)


def of_labels(labels: str) -> ChunkFacts:
    return chunk(*(record(f"Question {i}?", f"Answer {i}.", label == "+") for i, label in enumerate(labels)))


def test_everything_is_counted() -> None:
    facts = chunk(
        record("Why?", "So.", True, source="a"),
        record("Why?", "No.", False, source="a"),
        record("Why?", "So.", False),
        record("How?", "So.", True),
        record("How?", "So.", True),
    )
    (split,) = surveyed(facts).splits
    assert split.labels == LabelCounts(desirable=3, undesirable=2)
    assert [(entry.source, entry.labels.total) for entry in split.sources] == [("", 3), ("a", 2)]
    assert (split.num_prompts, split.num_prompts_with_both_labels) == (2, 1)
    assert (split.num_contradictions, split.num_duplicates, split.num_repeated_completions) == (2, 1, 4)
    assert split.top_completions == (
        RepeatedCompletion(
            labels=LabelCounts(desirable=3, undesirable=1), path="a.jsonl", line=1, num_characters=3
        ),
    )  # fmt: skip
    assert (split.pixel_area, split.sample_tokens, split.microbatches) == (None, None, None)


def test_no_sample_is_no_split() -> None:
    assert surveyed(ChunkFacts("a.jsonl")).splits == ()
    assert surveyed().trained is None


def test_splits_are_surveyed_apart() -> None:
    found = surveyed(
        chunk(record("Why?", "So.", False), split="eval", path="e.jsonl"),
        chunk(record("Why?", "So.", True), record("How?", "So.", False)),
    )
    assert [split.name for split in found.splits] == ["eval", "train"]
    assert [split.num_prompts_in_train for split in found.splits] == [1, 0]
    assert [split.num_contradictions for split in found.splits] == [1, 1]
    assert [split.num_duplicates for split in found.splits] == [0, 0]
    assert found.trained is found.splits[1]


def test_a_file_that_comes_back_keeps_its_lines() -> None:
    facts = DatasetFacts()
    for path in ("a.jsonl", "b.jsonl", "a.jsonl"):
        facts.extend(chunk(record("Why?", "So.", True), path=path))
    assert [facts.splits["train"].place(index).path for index in range(3)] == ["a.jsonl", "b.jsonl", "a.jsonl"]


def test_sources_beyond_measure_are_counted_together() -> None:
    facts = DatasetFacts()
    for start in range(0, 12_000, 2_000):
        piece = ChunkFacts("a.jsonl")
        for index in range(start, start + 2_000):
            digest, length, shape = describe(record("Why?", "So.", True))
            piece.add_sample(digest, index + 1, length, shape._replace(source=f"conversation {index}"))
        facts.extend(piece)
    split = facts.splits["train"]
    assert split.sources[OTHER_SOURCES] == (2_000, 0)
    assert split.num_desirable == len(split) == 12_000


@given(st.binary(min_size=1, max_size=40).map(lambda text: bytes(byte & 1 for byte in text)))
def test_runs_are_those_that_counting_finds(labels: bytes) -> None:
    facts = DatasetFacts()
    facts.extend(of_labels("".join("-+"[label] for label in labels)))
    order = label_order(facts.splits["train"])
    runs = [len(run) for text in labels.split(b"\0") for run in [text]] + [len(run) for run in labels.split(b"\1")]
    assert order.longest.num_samples == max(runs)
    assert facts.splits["train"].labels == labels
    start, length = order.longest.start, order.longest.num_samples
    assert set(labels[start : start + length]) == {int(order.longest.label)}


def test_shuffled_data_has_no_improbable_run() -> None:
    toss = random.Random(3)
    for share in (0.5, 0.9, 0.99):
        labels = "".join("+" if toss.random() < share else "-" for _ in range(3_000))
        facts = DatasetFacts()
        facts.extend(of_labels(labels))
        assert label_order(facts.splits["train"]).worst is None


@pytest.mark.parametrize(("num_this", "num_other"), [(60, 60), (300, 20), (5, 5), (0, 3), (3, 0), (1_000, 1)])
def test_the_bound_on_runs_is_where_the_expected_number_falls_under_one_in_a_million(
    num_this: int, num_other: int
) -> None:
    def expected(length: int) -> float:
        value = float(num_other + 1)
        for index in range(length):
            value *= (num_this - index) / (num_this + num_other - index)
        return value

    bound = improbable_run(num_this, num_other)
    if bound <= num_this:
        assert expected(bound) < 1e-6
    assert bound >= min(32, num_this + num_other + 1)
    if bound > 32:
        assert expected(min(bound - 1, num_this)) >= 1e-6


def test_batches_are_compared_with_shuffled_and_spread_ones() -> None:
    (split,) = surveyed(of_labels("++++----"), batch_size=4).splits
    assert split.microbatches is not None
    assert split.microbatches.num_one_label_as_written == 2
    assert split.microbatches.num_one_label_interleaved == 0
    assert split.microbatches.share_one_label_shuffled == pytest.approx(2 / 70)
    assert split.microbatches.num_self_pairs == 0


def test_a_batch_size_beyond_the_data_is_one_batch() -> None:
    (split,) = surveyed(of_labels("+-"), batch_size=64).splits
    assert split.microbatches is not None
    assert (split.microbatches.number, split.microbatches.num_one_label_as_written) == (1, 0)


def test_image_areas_are_those_that_were_noted() -> None:
    facts = of_labels("+-")
    facts.add_image(True, 1_234_567)
    facts.add_image(False, 640)
    (split,) = surveyed(facts).splits
    assert split.pixel_area is not None
    assert split.pixel_area.desirable == (1_230_000,) * 5
    assert split.pixel_area.undesirable == (640,) * 5


@given(st.integers(0, 10**12))
def test_an_area_is_rounded_down_to_three_digits(pixels: int) -> None:
    assert 0 <= pixels - rounded_area(pixels) < max(1, pixels / 100)
    assert len(str(rounded_area(pixels)).rstrip("0")) <= 3


def test_ordinary_data_gets_no_remark() -> None:
    toss = random.Random(5)
    samples = [
        record(f"Question {i}?", f"Answer {i}" + " and so on" * toss.randrange(20), toss.random() < 0.5)
        for i in range(400)
    ]
    assert remarks(surveyed(chunk(*samples), batch_size=4)) == ()


def test_what_is_odd_gets_a_remark() -> None:
    samples = [
        record(f"Question {i}?", "Yes, certainly, and at length." if i < 60 else "No.", i < 60, source="xy"[i >= 60])
        for i in range(120)
    ]
    found = remarks(surveyed(chunk(*samples), batch_size=4))
    assert [remark.kind for remark in found] == [
        "shortcut-completion-length",
        "shortcut-source",
        "repeated-completions",
        "one-label-batches",
    ]
    assert "each of the 2 sources has one label only" in found[1].text
    assert "120 of 120 samples (100%)" in found[2].text


def test_columns_are_plain_arrays() -> None:
    facts = of_labels("+-")
    columns = (facts.prompts, facts.completions, facts.places, facts.lengths)
    assert all(isinstance(column, array) for column in columns)
    assert sum(column.itemsize for column in columns) <= 40

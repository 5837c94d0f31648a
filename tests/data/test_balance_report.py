"""The balance report: counts that add up, and properties that give the label away."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from balances import large_report, record, report_on, tally_of
from hypothesis import given
from hypothesis import strategies as st
from outcomes import HOSTILE

from kto_data.encode import Encoded, ImageRef
from kto_data.record import Record
from kto_data.report.balance.formats import FORMATS
from kto_data.report.balance.model import BalanceReport, LabelCounts, SplitReport
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.so_far import SplitSoFar
from kto_data.tally import IMAGE_KEY_DTYPE, ROW_DTYPE, Tally, TallyBuilder
from kto_data.unit import Built
from kto_train.groups import Rows, build_groups


def report_of(*records: Record) -> SplitReport:
    return report_on(train=tally_of(*records)).splits["train"]


def auc(report: SplitReport, name: str) -> float:
    return next(item.separation.strength for item in report.shortcuts if item.property == name)


def lines_of(report: BalanceReport) -> list[str]:
    return FORMATS["full"](report).splitlines()


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
    assert [(top.text, top.desirable, top.undesirable) for top in report.top_completions] == [
        ("yes", 2, 1),
        ("no", 2, 0),
    ]


def test_length_alone_tells_long_from_short() -> None:
    report = report_of(*(record(str(i), "long" * 9, True) for i in range(4)), record("q", "no", False))
    assert auc(report, "completion length") == 1.0
    assert [shortcut.property for shortcut in report.shortcuts] == ["completion length"]  # no image differs


def test_a_source_that_decides_the_label_is_pointed_out() -> None:
    rows = [record(str(i), "xx", i % 2 == 0, source="person" if i % 2 == 0 else "model") for i in range(40)]
    report = report_on(train=tally_of(*rows))
    assert auc(report.splits["train"], "source") == 1.0
    assert "  - the source alone tells the label (AUC 1.00): each of the 2 sources has one" in lines_of(report)
    assert f"  model{'':<19}{'0':>12}{'20':>13}  {'░' * 24}" in lines_of(report)


def test_that_each_model_has_one_label_is_said_at_a_glance_in_every_format() -> None:
    """Answers of six models to the same questions about pictures; three are called good, and say more."""
    rows = []
    for question in range(80):
        for model in range(6):
            is_good, gives_up = model % 2 == 0, model == 1 and question % 3 == 0
            answer = f"{question} by {model}: " + "word " * (question % 20 + 12 * is_good)
            said = record(
                f"<image>What is {question}?", "I do not know." if gives_up else answer, is_good,
                source=f"model-{model}", images=["a.png"],
            )  # fmt: skip
            rows.append(said)
    report = report_on(train=tally_of(*rows, images=(ImageRef("a.png", "f" * 64, 10, 10, num_tokens=1),)))
    first, second, third = report.remarks
    assert first.text == "the source alone tells the label (AUC 1.00): each of the 6 sources has one label only"
    assert second.text.startswith("the completion length alone tells much of the label (AUC 0.93)")
    assert third.text.startswith("answers repeat: 27 rows (6%) have a completion that another one has too")
    text = {name: unescape(render(report)) for name, render in FORMATS.items()}
    assert all(first.text in " ".join(written.split()) for written in text.values())
    assert "  source 1.00, completion length 0.93" in text["full"]
    assert text["markdown"].index(first.text) < text["markdown"].index("Weights") < 600
    assert text["html"].index(first.text) < text["html"].index("model-0")


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(lengths: list[tuple[int, bool]]) -> None:
    report = report_of(*(record(str(i), "x" * n, label) for i, (n, label) in enumerate(lengths)))
    longer = [n for n, label in lengths if label]
    shorter = [n for n, label in lengths if not label]
    if not longer or not shorter:
        assert report.shortcuts == ()
        return
    if len({n for n, _ in lengths}) == 1:
        return  # what does not differ tells nothing
    wins = np.mean([(a > b) + (a == b) / 2 for a in longer for b in shorter])
    assert abs(auc(report, "completion length") - max(wins, 1 - wins)) < 1e-9


@given(st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_chunks_merge_to_what_one_chunk_would_have_counted(first: list[bool], second: list[bool]) -> None:
    one = [record(str(i % 3), "a" * (i % 4 + 1), label) for i, label in enumerate(first)]
    two = [record(str(i % 5), "b" * (i % 2 + 1), label) for i, label in enumerate(second)]
    merged = Tally().merge([tally_of(*one), tally_of(*two)])
    assert report_on(train=merged) == report_on(train=tally_of(*one, *two))


def test_one_label_alone_has_no_balance() -> None:
    report = report_on(train=tally_of(record("q", "yes", True)))
    assert "weights  b = undefined at 1 and 1, undefined: one label has no rows" in lines_of(report)
    assert report.splits["train"].weights.paste == ()


def test_weights_are_advised_for_what_is_trained() -> None:
    rows = [record(str(i), "x", i > 0) for i in range(4)]
    lines = lines_of(report_on(train=tally_of(*rows), eval=tally_of(*rows)))
    assert [line for line in lines if "weights: " in line] == [
        "  weights: auto  # the default: 1 and 2.25, which gives b = 1.33",
        "  # or weights: {desirable: 0.389}",
        "  # or weights: {undesirable: 2.62}",
    ]
    assert max(map(len, lines)) <= 80


def test_rows_are_followed_stage_by_stage_and_source_by_source() -> None:
    builder = TallyBuilder()
    for reason, label, source in (
        ("KTO306", False, "b"),  # invalid
        ("KTO501", True, "a"),  # too long
        ("KTO501", True, "a"),
        ("KTO401", False, "a"),  # a contradiction, where those are dropped
        ("KTO102", None, ""),
    ):
        builder.read(label)
        builder.drop(reason, label, source)
    tally = Tally().merge([builder.finish(), tally_of(record("q", "yes", True, source="a"))])
    report = report_on(train=tally).splits["train"]
    assert report.stages.read == LabelCounts(desirable=3, undesirable=2, unreadable=1)
    assert report.stages.valid == LabelCounts(desirable=3, undesirable=1)
    assert report.stages.not_too_long == LabelCounts(desirable=1, undesirable=1)
    assert report.stages.kept == LabelCounts(desirable=1)
    assert [(entry.source, entry.stages.read.total, entry.stages.kept.total) for entry in report.sources] == [
        ("a", 4, 1),
        ("", 1, 0),
        ("b", 1, 0),
    ]


def test_of_too_many_sources_the_rest_are_counted_together() -> None:
    rows = [record(str(i), "x", i % 2 == 0, source=f"s{i:03d}") for i in range(150)]
    report = report_of(*rows, record("more", "x", True, source="s149"))
    assert (report.num_sources, len(report.sources), report.sources[0].source) == (150, 100, "s149")
    assert report.other_sources is not None
    named = sum(entry.stages.kept.total for entry in report.sources)
    assert named + report.other_sources.kept.total == report.counts.kept == 151


def test_drops_that_change_the_balance_are_pointed_out() -> None:
    builder = TallyBuilder()
    for _ in range(10):
        builder.read(True)
        builder.drop("KTO501", True)
    rows = [record(str(i), "x" * (i % 5 + 1), i % 2 == 0) for i in range(40)]
    report = report_on(train=Tally().merge([builder.finish(), tally_of(*rows)]))
    assert [remark.text for remark in report.remarks if remark.kind == "balance-shift-not-too-long"] == [
        "without rows that are too long the balance goes from 1.5 to 1: 33% of the desirable rows are dropped and 0% "
        "of the undesirable ones"
    ]


def test_an_eval_split_is_held_against_the_train_split() -> None:
    image = ImageRef("a.png", "f" * 64, 10, 10, num_tokens=1)
    same_file = ImageRef("b.png", "f" * 64, 10, 10, num_tokens=1)
    other = ImageRef("c.png", "e" * 64, 10, 10, num_tokens=1)
    train, held_out = TallyBuilder(), TallyBuilder()
    for builder, question, images in (
        (train, "q", ()),
        (train, "r", (image,)),
        (held_out, "q", ()),  # the prompt leaks
        (held_out, "s", (other, same_file)),  # the image leaks
        (held_out, "t", (other,)),
    ):
        builder.read(True)
        builder.keep(record(question, "x", True), Encoded([1], [2], images, num_cut=0))
    report = report_on(train=train.finish(), eval=held_out.finish())
    leakage = report.splits["eval"].leakage
    assert leakage is not None
    assert (leakage.num_same_prompt, leakage.num_same_image) == (1, 1)
    assert report.splits["train"].leakage is None
    assert (report.splits["eval"].num_images, report.splits["eval"].num_image_files) == (3, 2)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=60),
    st.integers(2, 5),
)
def test_the_groups_foretold_are_those_that_training_makes(rows: list[tuple[int, bool]], batch_size: int) -> None:
    answers, labels = np.array([answer for answer, _ in rows]), np.array([label for _, label in rows])
    tally = tally_of(*(record(str(i), "x" * answer or "-", label) for i, (answer, label) in enumerate(rows)))
    foretold = report_on(batch_size, train=tally).splits["train"].microbatches
    lengths = np.ones(len(rows), np.int64)
    made = build_groups(
        Rows(
            label=labels, prompt_length=lengths, completion_length=lengths, completion_key=np.where(answers, answers, 9)
        ),
        batch_size=batch_size,
        seed=0,
    )
    assert foretold is not None
    assert (foretold.number, foretold.smallest) == (len(made), made.smallest)
    assert foretold.num_self_pairs <= made.num_self_pairs


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=30))
def test_the_report_is_read_back_as_it_was_written(rows: list[tuple[int, int, bool]]) -> None:
    records = [record(f"q{prompt}", f"a{answer}", label, source=f"s{answer}") for prompt, answer, label in rows]
    report = report_on(train=tally_of(*records))
    assert BalanceReport.model_validate_json(FORMATS["json"](report)) == report
    for render in FORMATS.values():
        assert render(report)


@pytest.mark.parametrize("words", ["", HOSTILE.replace("\ud800", "") * 20])
def test_however_much_there_is_a_report_stays_small(words: str) -> None:
    report = large_report(words)
    assert len(FORMATS["html"](report).encode()) < 300_000
    assert len(FORMATS["markdown"](report).encode()) < 100_000
    assert max(map(len, lines_of(report))) <= 80


def test_a_million_rows_with_an_image_each_take_forty_bytes_a_row(tmp_path: Path) -> None:
    num_rows, chunks = 1_000_000, 50
    draw = np.random.default_rng(0)
    so_far = SplitSoFar(tmp_path)
    tracemalloc.start()
    for _ in range(chunks):
        rows = np.zeros(num_rows // chunks, ROW_DTYPE)
        rows["num_prompt"], rows["num_completion"], rows["num_images"] = 1, draw.integers(1, 50, len(rows)), 1
        rows["label"], rows["pixels"] = draw.random(len(rows)) < 0.5, draw.integers(1, 50, len(rows))
        rows["prompt_key"], rows["completion_key"], images = draw.integers(0, 1 << 63, (3, len(rows)))
        num_desirable = int(rows["label"].sum())
        read = Counter({"true": num_desirable, "false": len(rows) - num_desirable})
        tally = Tally(read=read, rows=rows, image_keys=images.astype(IMAGE_KEY_DTYPE))
        so_far.add(Built(None, tally, ChunkFacts("data.jsonl"), (), ()))
    split = report_on(train=so_far.merged()).splits["train"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert split.num_prompts == split.num_image_files == num_rows
    assert most < 40 * num_rows


def test_what_the_data_says_cannot_leave_its_place_in_a_report() -> None:
    evil = "<script>alert(1)</script>|`**\x1b[31m\u202e"
    rows = [record(str(i), evil, i % 2 == 0, source=evil + str(i % 2)) for i in range(40)]
    report = report_on(train=tally_of(*rows))
    for name in ("full", "markdown", "html"):
        text = FORMATS[name](report)
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script>alert" not in FORMATS["html"](report) + FORMATS["markdown"](report)
    assert all(
        line.count("|") - line.count("\\|") == 4
        for line in FORMATS["markdown"](report).splitlines()
        if evil[:7] in line
    )


def told(split: SplitReport) -> dict[str, tuple[str, ...]]:
    """What a report for people must say of a split, by what it is about: numbers with the words beside them."""
    kept, batches, leakage = split.stages.kept, split.microbatches, split.leakage
    assert batches is not None
    return {
        "rows": (f"{split.counts.kept:,} rows of {split.counts.read:,} read",),
        "labels": (f"{kept.desirable:,}", f"{kept.undesirable:,}", f"{kept.balance:.3g}"),
        "drops": tuple(reason for reason in split.counts.dropped if reason in ("KTO101", "KTO402")),
        "sources": tuple(entry.source for entry in split.sources[:3]),
        "quantiles": (f"{split.row_tokens.undesirable.p50:,}",) if split.row_tokens.undesirable else (),
        "prompts": (f"{split.num_prompts_with_both_labels:,} with both labels",),
        "repeats": (f"{split.num_duplicates:,}", f"{split.num_contradictions:,}", split.top_completions[0].text[:6]),
        "shortcuts": tuple(f"{found.property} {found.separation.strength:.2f}" for found in split.shortcuts),
        "leakage": ()
        if leakage is None
        else (f"{leakage.num_same_prompt:,} row", f"an image of {leakage.num_same_image:,}"),
        "groups": (
            f"{batches.num_one_label_as_written / batches.number:.1%} in the order",
            f"are grouped: {batches.num_self_pairs:,}",
        ),
    }


@pytest.mark.parametrize("format", ["full", "markdown", "html"])
def test_every_report_for_people_says_all_that_there_is_to_say(format: str) -> None:
    report = large_report("word")
    text = " ".join(unescape(FORMATS[format](report)).split())
    for name, split in report.splits.items():
        for about, words in told(split).items():
            for word in words:
                assert word in text, (name, about)

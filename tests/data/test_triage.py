"""Which findings are shown, and how severe they are."""

from __future__ import annotations

import os
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from kto_data.baseline import Baseline, read_baseline
from kto_data.finding import Finding, Location, Severity
from kto_data.triage import FileIgnore, Hidden, Limit, Suppression, Threshold, Triage, hidden_words, path_matches


def finding(code: str = "KTO111", path: str = "a.jsonl", fingerprint: str = "f0", row_id: str = "r0") -> Finding:
    location = Location(path=path, line=1)
    return Finding(
        code=code, severity=Severity.WARNING, location=location, message="m", fingerprint=fingerprint, record_id=row_id
    )


def suppression(**fields: object) -> Suppression:
    given = {"place": "ktodata.toml", "rule": "KTO111", "codes": frozenset({"KTO111"}), "reason": "known", **fields}
    return Suppression(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.jsonl", "deep/down/a.jsonl", True),
        ("a.jsonl", "deep/a.jsonl", True),
        ("deep/a.jsonl", "deep/a.jsonl", True),
        ("deep/a.jsonl", "other/deep/a.jsonl", False),
        ("deep/*", "deep/down/a.jsonl", True),
        ("deep/**/a.jsonl", "deep/a.jsonl", True),
        ("./deep/*.jsonl", f"{os.getcwd()}/deep/a.jsonl", True),
        ("*/a.jsonl", "-", False),
        ("s3://bucket/*", "s3://bucket/a.jsonl", True),
    ],
)
def test_a_pattern_with_a_slash_is_about_the_path_and_one_without_about_the_name(
    pattern: str, path: str, expected: bool
) -> None:
    assert path_matches(pattern, path) is expected


def test_every_finding_is_shown_or_counted() -> None:
    triage = Triage(
        ignores=[FileIgnore("b.jsonl", frozenset({"KTO111"}))],
        suppressions=[suppression(row="f1"), suppression(row="r2", path="a.*")],
        known=[(Hidden.BASELINE, Baseline({("KTO111", "f3"): 1}).take)],
    )
    findings = [
        *(finding(), finding(path="b.jsonl"), finding("KTO112", "b.jsonl")),
        *(finding(fingerprint="f1"), finding(row_id="r2"), finding(path="b.json", row_id="r2")),
        *(finding(fingerprint="f3"), finding(fingerprint="f3")),
    ]
    shown = triage.sort_out(findings)
    assert shown == [findings[index] for index in (0, 2, 5, 7)]
    assert len(shown) + sum(triage.hidden.values()) == len(findings)
    assert hidden_words(triage.hidden) == "1 ignored in their files, 2 suppressed, 1 in the baseline"


def test_what_befell_the_run_is_never_hidden() -> None:
    crashed = finding("KTO902")
    baseline = Baseline({("KTO902", "f0"): 9})
    triage = Triage(
        ignores=[FileIgnore("*", frozenset({"KTO902"}))],
        suppressions=[suppression(codes=frozenset({"KTO902"}))],
        known=[(Hidden.BASELINE, baseline.take)],
        record=baseline.add,
        severities={"KTO902": Severity.INFO},
        thresholds={"KTO902": Threshold(Limit(9, False), None)},
    )
    assert triage.sort_out([crashed]) == [crashed]
    assert not triage.thresholds
    assert len(baseline) == 9


def test_a_suppression_holds_on_its_last_day_and_comes_back_on_the_next() -> None:
    day = date(2026, 3, 1)
    for today, expected in ((day, 0), (day + timedelta(days=1), 1)):
        triage = Triage(suppressions=[suppression(expires=day)], today=today)
        assert len(triage.sort_out([finding()])) == expected
        assert triage.unused(["KTO111"]) == []


def test_an_unused_suppression_is_told_only_where_its_rule_ran() -> None:
    triage = Triage(suppressions=[suppression()])
    assert triage.unused(["KTO112"]) == []
    assert [str(entry) for entry in triage.unused(["KTO111"])] == ["KTO111"]


def test_thresholds_count_more_than_their_number() -> None:
    threshold = Threshold(warn=Limit(1, False), error=Limit(0.1, True))
    said = [threshold.severity(found, 100) for found in (1, 2, 10, 11)]
    assert said == [Severity.INFO, Severity.WARNING, Severity.WARNING, Severity.ERROR]


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    counts = Counter({("KTO111", "f1"): 2, ("KTO112", "f0"): 1})
    baseline = Baseline(counts)
    baseline.write(tmp_path / "known.json")
    read = read_baseline(tmp_path / "known.json")
    assert len(read) == 3
    assert [read.take(finding(fingerprint="f1")) for _ in range(3)] == [True, True, False]
    assert read.num_left(["KTO111", "KTO112"]) == 1

"""What befalls the run itself: a rule that crashes, and findings that are more than is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_image, make_record, write_jsonl

import kto_data.check
import kto_data.validation
from kto_data.check import CheckSettings
from kto_data.errors import InputError
from kto_data.finding import Finding, Severity
from kto_data.inputs import open_inputs
from kto_data.rules import ALL_RULES
from kto_data.rules.base import AnyRule, Stage
from kto_data.validate import validate
from kto_data.validation import Validation

RuleThat = Callable[[str, BaseException], None]
"""Code of a rule, and what is to be raised whenever it runs."""


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> RuleThat:
    def crash(code: str, error: BaseException) -> None:
        def check(subject: Any) -> Iterator[Any]:
            raise error
            yield

        rules = tuple(replace(rule, check=check) if rule.code == code else rule for rule in ALL_RULES)
        monkeypatch.setattr(kto_data.check, "ALL_RULES", rules)

    return crash


def _run(rows: list[Any], folder: Path, **settings: Any) -> tuple[Validation, list[Finding]]:
    path = write_jsonl(folder / "data.jsonl", rows)
    found: list[Finding] = []
    return validate(open_inputs([str(path)]), CheckSettings(**settings), listen=found.extend), found


def _said(text: str, label: bool = True, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": text}]
    return make_record(messages=messages, label=label, **more)


def test_a_row_rule_that_crashes_is_an_error_of_the_row_and_all_others_go_on(
    crashing: RuleThat, tmp_path: Path
) -> None:
    crashing("KTO305", ValueError("a secret of the row"))
    validation, found = _run([_said("A"), _said("B", more=1), _said(" ", label=False)], tmp_path)
    # The first record is plainly clean: the rule was not needed for it.
    assert [(f.code, f.location.line) for f in found if f.location.line] == [
        ("KTO111", 2), ("KTO902", 2), ("KTO306", 3), ("KTO902", 3),
    ]  # fmt: skip
    crash = next(f for f in found if f.code == "KTO902")
    assert (crash.severity, dict(crash.data)) == (Severity.ERROR, {"rule": "KTO305", "exception": "ValueError"})
    assert "test_run_rules.py" in crash.message
    assert "secret" not in crash.message
    assert validation.fails(Severity.ERROR)
    assert (validation.num_rows, validation.inputs[0].num_rows_ok) == (3, 1)


@pytest.mark.parametrize("code", ["KTO201", "KTO215"])
def test_an_image_rule_that_crashes_is_found_on_the_fast_path_too(
    code: str, crashing: RuleThat, tmp_path: Path
) -> None:
    crashing(code, ZeroDivisionError())
    make_image(tmp_path / "a.png")
    messages = [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "Yes."}]
    rows = [make_record(messages=messages, images=["a.png", "a.png"]), _said("B", label=False)]
    _, found = _run(rows, tmp_path)
    pointers = ["/images"] if code == "KTO215" else ["/images/0", "/images/1"]
    assert [(f.code, f.location.line, f.location.pointer) for f in found] == [("KTO902", 1, p) for p in pointers]


@pytest.mark.parametrize("code", ["KTO116", "KTO403"])
def test_a_rule_about_the_whole_input_that_crashes_is_an_error_of_the_input(
    code: str, crashing: RuleThat, tmp_path: Path
) -> None:
    crashing(code, KeyError("x"))
    validation, found = _run([_said("A"), _said("B", label=False)], tmp_path)
    assert [(f.code, f.location.line, dict(f.data)["rule"]) for f in found] == [("KTO902", None, code)]
    assert validation.fails(Severity.ERROR)


def test_a_crash_is_told_whatever_is_selected(crashing: RuleThat, tmp_path: Path) -> None:
    crashing("KTO402", RuntimeError())
    validation, found = _run([_said("A", label="yes")], tmp_path, codes=frozenset({"KTO402"}))
    assert [f.code for f in found] == ["KTO902"]
    assert validation.fails(Severity.ERROR)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), InputError("gone")])
def test_what_no_rule_is_to_blame_for_ends_the_run(error: BaseException, crashing: RuleThat, tmp_path: Path) -> None:
    crashing("KTO402", error)
    with pytest.raises(type(error)):
        _run([_said("A", label="yes")], tmp_path)


def test_findings_beyond_those_kept_are_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kto_data.validation, "KEPT_PER_RULE", 2)
    rows = [_said(str(index), index % 2 == 0, more=1) for index in range(5)]
    validation, found = _run(rows, tmp_path)
    unknown, told = validation.counts["KTO111"], validation.counts["KTO903"]
    assert (unknown.count, len(unknown.findings)) == (5, 2)
    assert told.findings == [f for f in found if f.code == "KTO903"]
    (finding,) = told.findings
    assert (finding.severity, finding.message) == (
        Severity.INFO, "5 findings of KTO111: the first 2 are kept, the others counted",
    )  # fmt: skip
    assert not validation.fails(Severity.ERROR)


def test_nothing_is_told_of_findings_that_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kto_data.validation, "KEPT_PER_RULE", 2)
    validation, _ = _run([_said("A", more=1), _said("B", False, more=1)], tmp_path)
    assert list(validation.counts) == ["KTO111"]


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if rule.stage is Stage.RUN], ids=lambda rule: rule.code)
def test_rules_about_the_run_are_on_by_default(rule: AnyRule) -> None:
    assert rule.default

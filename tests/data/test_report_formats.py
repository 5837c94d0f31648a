"""Every format is one whole document, whatever the data says."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from conftest import make_record, write_jsonl

from kto_data.check import CheckSettings
from kto_data.finding import Finding, Location, Severity
from kto_data.inputs import open_inputs
from kto_data.report.formats import FORMATS, statistics
from kto_data.report.outcome import Outcome, presentable, spread
from kto_data.rules import ALL_RULES
from kto_data.schema import schema_text
from kto_data.validate import validate
from kto_data.validation import RuleCount, Validation

HOSTILE = "a\nb\x1b[31m ]]> ::error::x | `c` <script>alert(1)</script> \ud800 \x00 " + "x" * 100_000


def outcome_of(validation: Validation, *, redact: bool = False) -> Outcome:
    return Outcome(validation=presentable(validation, redact=redact), failed=True, exit_code=1)


def hostile(path: Path) -> Validation:
    rows = [make_record(label=True), make_record(label=False)]
    validation = validate(open_inputs([str(write_jsonl(path, rows))]), CheckSettings())
    rule = next(rule for rule in ALL_RULES if rule.code == "KTO305")
    count = RuleCount(rule)
    for line in (1, 1, 2):
        where = Location(path=str(path), line=line, byte_offset=0, pointer=f"/{HOSTILE}")
        count.add(
            Finding(
                code=rule.code, severity=Severity.ERROR, location=where, message=HOSTILE, record_id=HOSTILE,
                row_hash="00", fingerprint="ab", quotes=(HOSTILE,), data=(("what", HOSTILE),),
            )
        )  # fmt: skip
    validation.counts[rule.code] = count
    return validation


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_content_breaks_no_format(name: str, tmp_path: Path) -> None:
    text = FORMATS[name](outcome_of(hostile(tmp_path / "a.jsonl")))
    assert text.encode()
    assert "\x1b" not in text
    assert "\x00" not in text
    assert len(text) < 200_000  # what is too long is cut


@pytest.mark.parametrize("name", FORMATS)
def test_redacted_content_is_in_no_format(name: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [make_record(label="my own words", id="name of mine"), make_record()])
    validation = validate(open_inputs([str(path)]), CheckSettings())
    assert "my own words" in FORMATS["concise"](outcome_of(validation))
    text = FORMATS[name](outcome_of(validation, redact=True))
    assert "my own words" not in text
    assert "name of mine" not in text


def test_json_is_what_its_published_schema_says(tmp_path: Path) -> None:
    document = json.loads(FORMATS["json"](outcome_of(hostile(tmp_path / "a.jsonl"))))
    jsonschema.validate(document, json.loads(schema_text("report")))
    finding = json.loads(schema_text("finding"))
    for line in FORMATS["json-lines"](outcome_of(hostile(tmp_path / "a.jsonl"))).splitlines():
        jsonschema.validate(json.loads(line), finding)


def test_gitlab_fingerprints_are_unique_also_of_equal_findings(tmp_path: Path) -> None:
    entries = json.loads(FORMATS["gitlab"](outcome_of(hostile(tmp_path / "a.jsonl"))))
    prints = [entry["fingerprint"] for entry in entries]
    assert len(prints) == len(set(prints)) >= 3


def test_junit_has_a_case_for_each_rule_passed_failed_or_skipped(tmp_path: Path) -> None:
    validation = hostile(tmp_path / "a\x1b[31m.jsonl")
    (suite,) = ElementTree.fromstring(FORMATS["junit"](outcome_of(validation)))
    assert {case.attrib["name"].split()[0] for case in suite} == {
        rule.code for rule in (*validation.rules, *(rule for rule, _ in validation.skipped))
    }
    failed = [case.attrib["name"].split()[0] for case in suite if case.find("failure") is not None]
    assert "KTO305" in failed
    assert suite.attrib["skipped"] == str(len(validation.skipped))


def test_sarif_results_name_their_rule_place_and_fingerprint(tmp_path: Path) -> None:
    (run,) = json.loads(FORMATS["sarif"](outcome_of(hostile(tmp_path / "a.jsonl"))))["runs"]
    rules = run["tool"]["driver"]["rules"]
    results = [result for result in run["results"] if result["ruleId"] == "KTO305"]
    assert len(results) == 3
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == "KTO305"
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] in (1, 2)
        assert result["partialFingerprints"] == {"ktodata/v1": "ab"}


@pytest.mark.parametrize("name", ["json", "gitlab", "junit", "sarif", "markdown"])
def test_a_machine_format_is_a_document_also_where_nothing_was_found(name: str, tmp_path: Path) -> None:
    rows = [make_record(label=index % 2 == 0, id=index, source=f"{index}") for index in range(2)]
    rows[1]["messages"] = [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "No."}]
    validation = validate(open_inputs([str(write_jsonl(tmp_path / "a.jsonl", rows))]), CheckSettings())
    assert validation.counts == {}
    assert FORMATS[name](outcome_of(validation)).strip()


def test_room_is_shared_among_rules_the_worst_severity_first() -> None:
    def count(code: str, number: int) -> RuleCount:
        rule = next(rule for rule in ALL_RULES if rule.code == code)
        made = RuleCount(rule)
        for line in range(number):
            where = Location(path="a", line=line)
            made.add(Finding(code=code, severity=rule.severity, location=where, message=""))
        return made

    counts = [count("KTO305", 100), count("KTO306", 2), count("KTO304", 50)]
    assert spread(counts, 20) == {"KTO305": 18, "KTO306": 2, "KTO304": 0}
    assert spread(counts, 110) == {"KTO305": 100, "KTO306": 2, "KTO304": 8}


def test_statistics_are_one_line_a_rule(tmp_path: Path) -> None:
    lines = statistics(outcome_of(hostile(tmp_path / "a.jsonl"))).splitlines()
    assert any("KTO305" in line and "3" in line for line in lines)

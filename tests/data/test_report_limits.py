"""What other programs take: the official schema of SARIF, the formats of GitLab and JUnit, the limits of GitHub."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
from conftest import make_record, write_jsonl
from outcomes import HOSTILE, clean_validation, full_validation, outcome_of

from kto_data.cli import main
from kto_data.commands.output import MOST_SUMMARY_BYTES, write_step_summary
from kto_data.finding import Severity
from kto_data.report.formats import FORMATS
from kto_data.report.outcome import Outcome
from kto_data.rules import ALL_RULES

SARIF_SCHEMA = Path(sys.prefix) / "sarif" / "sarif-schema.json"
NAMES = ("clean", "full", "hostile")

# The format as GitLab's documentation has it ("Code Quality report format"); it publishes no schema.
GITLAB_ENTRY = {
    "type": "object",
    "required": ["description", "check_name", "fingerprint", "severity", "location"],
    "additionalProperties": False,
    "properties": {
        "description": {"type": "string", "minLength": 1},
        "check_name": {"type": "string", "pattern": "^KTO[0-9]{3} "},
        "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
        "location": {
            "type": "object",
            "required": ["path", "lines"],
            "properties": {
                "path": {"type": "string", "pattern": "^(?!\\./)."},
                "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"minimum": 1}}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("data")
    hostile = full_validation(folder, 2_000, words=lambda rule, number: HOSTILE * 100, pointer=f"/{HOSTILE * 100}")
    found = {"clean": clean_validation(folder), "full": full_validation(folder), "hostile": hostile}
    return {name: replace(outcome_of(validation), root=folder) for name, validation in found.items()}


def sarif(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FORMATS["sarif"](outcome))
    return document


@pytest.mark.parametrize("name", NAMES)
def test_sarif_is_what_the_official_schema_says(name: str, outcomes: dict[str, Outcome]) -> None:
    assert SARIF_SCHEMA.exists(), "`make test` installs it beside the environment"
    schema = json.loads(SARIF_SCHEMA.read_text())
    assert schema["properties"]["version"]["enum"] == ["2.1.0"]
    document = sarif(outcomes[name])
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(document)] == []
    document["runs"][0]["results"] = [{"ruleId": 1}]  # the schema is one that can be broken
    assert not validator.is_valid(document)


def test_sarif_is_what_the_official_schema_says_of_real_data(tmp_path: Path) -> None:
    rows = [b"{", b"\xff", make_record(label="x", images=["a b/ü.png"]), make_record(messages=[])]
    data, report = write_jsonl(tmp_path / "a b%20ü.jsonl", rows), tmp_path / "report.sarif"
    assert main(["validate", str(data), "--quiet", "--report", f"sarif:{report}"]) == 1
    document = json.loads(report.read_text())
    jsonschema.validate(document, json.loads(SARIF_SCHEMA.read_text()))
    results = document["runs"][0]["results"]
    places = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}
    assert {unquote(place).rpartition("/")[2] for place in places} == {"a b%20ü.jsonl"}
    assert all(place.isascii() and " " not in place for place in places)


def test_a_url_in_sarif_is_a_url(outcomes: dict[str, Outcome]) -> None:
    (run,) = sarif(renamed(outcomes["hostile"], "memory://bucket/a b/ü.jsonl?x=1%20"))["runs"]
    places = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"]}
    assert places == {"memory://bucket/a%20b/%C3%BC.jsonl?x=1%20"}


def renamed(outcome: Outcome, path: str) -> Outcome:
    """The same, found in another file."""
    counts = {}
    for code, count in outcome.validation.counts.items():
        findings = [replace(f, location=replace(f.location, path=path)) for f in count.findings[:2]]
        counts[code] = replace(count, findings=findings)
    return replace(outcome, validation=replace(outcome.validation, counts=counts))


@pytest.mark.parametrize("host", ["GITHUB_WORKSPACE", "CI_PROJECT_DIR"])
def test_paths_start_where_the_checkout_does(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "repo" / "data" / "a.jsonl", [make_record(label="x")])
    monkeypatch.setenv(host, str(tmp_path / "repo"))
    monkeypatch.chdir(tmp_path / "repo" / "data")
    command = ["validate", "./a.jsonl", "-q", "--output-format", "github", "--report", f"sarif:{tmp_path / 'report'}"]
    assert main(command) == 1
    assert "::error file=data/a.jsonl,line=1," in capsys.readouterr().out
    assert '"uri": "data/a.jsonl"' in (tmp_path / "report").read_text()
    monkeypatch.setenv(host, str(tmp_path / "elsewhere"))
    assert main(command) == 1
    assert "::error file=a.jsonl,line=1," in capsys.readouterr().out


def test_sarif_has_no_more_results_than_code_hosts_show_the_worst_first(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["full"]
    (run,) = sarif(outcome)["runs"]
    assert len(run["results"]) == 5_000
    assert {result["level"] for result in run["results"]} == {"error"}  # of which there are more than that
    shares = Counter(result["ruleId"] for result in run["results"])
    errors = [count for count in outcome.worst_first if count.severity is Severity.ERROR]
    assert set(shares) == {count.rule.code for count in errors}
    # Each has its share, save those that have not so many.
    for count in errors:
        assert shares[count.rule.code] >= min(len(count.findings), 5_000 // len(errors))
    exact = {rule["id"]: rule["properties"]["findings"] for rule in run["tool"]["driver"]["rules"]}
    assert sum(exact.values()) == 100_000


def test_room_that_errors_leave_goes_to_warnings(tmp_path: Path) -> None:
    outcome = outcome_of(full_validation(tmp_path, 6_000))
    (run,) = sarif(outcome)["runs"]
    levels = Counter(result["level"] for result in run["results"])
    by_severity = outcome.validation.by_severity
    assert levels["error"] == by_severity[Severity.ERROR]
    assert levels["warning"] == min(5_000 - levels["error"], by_severity[Severity.WARNING])
    assert levels.total() == 5_000


def test_github_shows_ten_annotations_of_a_kind_and_the_last_says_what_is_beyond(outcomes: dict[str, Outcome]) -> None:
    lines = FORMATS["github"](outcomes["full"]).splitlines()
    commands = Counter(line.split()[0] for line in lines if line.startswith("::"))
    by_severity = Counter(count.severity for count in outcomes["full"].worst_first)
    assert commands == {
        command: min(10, by_severity[severity])
        for command, severity in (
            ("::error", Severity.ERROR),
            ("::warning", Severity.WARNING),
            ("::notice", Severity.INFO),
        )
    }
    errors = [line for line in lines if line.startswith("::error")]
    assert f"and {by_severity[Severity.ERROR] - 10} more rules of severity error" in errors[-1]
    assert not any("more rules" in line for line in errors[:-1])
    # Each rule has one line, annotation or not.
    assert len(lines) == len(ALL_RULES)
    assert all(any(f"{rule.code} {rule.name}" in line for line in lines) for rule in ALL_RULES)


def test_no_line_for_githubs_log_holds_a_command_of_the_data(outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    words = "\n::set-output name=x::y\n##[set-output name=x]y ::error::z"
    validation = full_validation(tmp_path, 2_000, words=lambda rule, number: words, pointer=words)
    lines = FORMATS["github"](outcome_of(validation)).splitlines()
    assert len(lines) == len(ALL_RULES)
    for line in lines:
        assert line.startswith(("::error ", "::warning ", "::notice ")) or ("##[" not in line and line[0] != ":")


@pytest.mark.parametrize("name", NAMES)
def test_the_step_summary_stays_within_githubs_limit(
    name: str, outcomes: dict[str, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    outcome = replace(outcomes[name], show=1_000)
    write_step_summary(outcome)
    first = summary.read_text()
    assert 0 < len(first.encode()) < MOST_SUMMARY_BYTES
    for count in outcome.worst_first:
        assert f"| {count.rule.code} {count.rule.name} | {count.severity.value} | {count.count:,} |" in first
    for _ in range(2):  # of a step that runs more than once
        write_step_summary(outcome)
    assert summary.stat().st_size < MOST_SUMMARY_BYTES + 2 * 200
    assert summary.read_text().count("ktodata validate: ") == 3


@pytest.mark.parametrize("name", NAMES)
def test_gitlab_entries_have_the_fields_that_gitlab_reads(name: str, outcomes: dict[str, Outcome]) -> None:
    entries = json.loads(FORMATS["gitlab"](outcomes[name]))
    jsonschema.validate(entries, {"type": "array", "maxItems": 5_000, "items": GITLAB_ENTRY})
    assert len({entry["fingerprint"] for entry in entries}) == len(entries)
    assert bool(entries) == bool(outcomes[name].validation.counts)


@pytest.mark.parametrize("name", NAMES)
def test_junit_is_of_the_elements_that_ci_servers_read_and_its_totals_are_true(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    root = ElementTree.fromstring(FORMATS["junit"](outcomes[name]))
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        cases = list(suite)
        assert {case.tag for case in cases} == {"testcase"}
        assert all(case.attrib["name"] and case.attrib["classname"] for case in cases)
        kinds = Counter(result.tag for case in cases for result in case)
        assert set(kinds) <= {"failure", "skipped"}
        assert all(len(case) <= 1 for case in cases)
        assert all(result.attrib["message"] for case in cases for result in case)
        totals = {key: int(suite.attrib[key]) for key in ("tests", "failures", "skipped", "errors")}
        assert totals == {
            "tests": len(cases), "failures": kinds["failure"], "skipped": kinds["skipped"], "errors": 0,
        }  # fmt: skip
    for key in ("tests", "failures"):
        assert int(root.attrib[key]) == sum(int(suite.attrib[key]) for suite in root)
    found = sum(len(case) for suite in root for case in suite if case.find("failure") is not None)
    assert found == len(outcomes[name].validation.counts)


def test_junit_says_too_what_was_found_about_other_files_than_the_data(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [make_record(), make_record(label=False)])
    config, report = tmp_path / "train.yaml", tmp_path / "junit.xml"
    config.write_text("no_such_key: 1\n")
    assert main(["validate", str(data), "-q", "--train-config", str(config), "--report", f"junit:{report}"]) == 1
    (case,) = [
        case for case in ElementTree.parse(report).iter("testcase") if case.attrib["name"].startswith("KTO701")
        and case.find("failure") is not None
    ]  # fmt: skip
    assert case.attrib["classname"].endswith("train.yaml")

"""`ktodata validate`: what each output format prints, and what cannot be checked at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_data.report.document import ReportDocument

Capture = pytest.CaptureFixture[str]


def _circle(**overrides: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A circle."}]
    return make_record(messages=messages, label=False, **overrides)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "good.jsonl", [make_record(), _circle()])


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "bad.jsonl", [make_record(), _circle(), make_record(label="yes"), _circle(more=1), b"{"]
    )


def _validate(*arguments: str | Path) -> int:
    return main(["validate", *map(str, arguments)])


def test_clean_data_is_exit_0_and_names_the_next_step(good: Path, capsys: Capture) -> None:
    assert _validate(good) == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:6] == [
        "labels",
        "  desirable           1  ███████████████                 50%",
        "  undesirable         1  ███████████████                 50%",
        "  balance 1, within [1, 4/3]: train with both weights at 1",
        "",
        "skipped",
    ]
    assert captured.err == (
        f"nothing found in 2 rows of 1 file\nnext: ktodata preprocess {good} --model MODEL --output CACHE\n"
    )


def test_concise_is_one_line_a_finding(bad: Path, capsys: Capture) -> None:
    assert _validate(bad, "--output-format", "concise") == ExitCode.FINDINGS
    captured = capsys.readouterr()
    # Four records of which one's label cannot be read.
    assert captured.out.splitlines()[:3] == [
        f'{bad}:3: KTO402 the label is the string "yes", must be true or false',
        f"{bad}:4: KTO111 unknown field 'more', not read",
        f"{bad}:5: KTO101 unexpected end of data at column 2",
    ]
    assert captured.err.splitlines()[0].startswith("2 errors, ")


@pytest.mark.parametrize("name", ["good", "bad"])
def test_json_is_one_document_whatever_is_found(name: str, request: pytest.FixtureRequest, capsys: Capture) -> None:
    path = request.getfixturevalue(name)
    code = _validate(path, "--output-format", "json")
    document = ReportDocument.model_validate_json(capsys.readouterr().out)
    assert (document.exit_code, document.status) == (code, "passed" if code == 0 else "failed")
    assert document.inputs[0].bytes == path.stat().st_size
    assert document.summary.rows == document.inputs[0].rows == (2 if name == "good" else 5)
    assert sum(rule.count for rule in document.rules) == len(document.findings)


def test_json_says_when_and_how_long_the_run_was(good: Path, capsys: Capture) -> None:
    before = datetime.now(UTC)
    _validate(good, "--output-format", "json")
    run = ReportDocument.model_validate_json(capsys.readouterr().out).run
    assert run.started is not None
    assert run.seconds is not None
    assert before <= run.started <= datetime.now(UTC)
    assert 0 <= run.seconds <= (datetime.now(UTC) - before).total_seconds() + 0.001  # it is rounded


def test_json_holds_labels_weights_and_what_was_skipped(good: Path, capsys: Capture) -> None:
    _validate(good, "--output-format", "json", "--images", "stat")
    document = json.loads(capsys.readouterr().out)
    assert document["stats"]["labels"] == {"desirable": 1, "undesirable": 1}
    assert document["stats"]["weights"]["trl"]["desirable_weight"] == pytest.approx([1, 4 / 3])
    assert {"code": "KTO202", "reason": "needs --images header, runs with --images stat"} in document["skipped"]
    assert {rule["code"]: rule["status"] for rule in document["rules"]}["KTO202"] == "skipped"


def test_github_annotates_each_rule_once_and_writes_the_step_summary(
    bad: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert _validate(bad, "--output-format", "github", "-q") == ExitCode.FINDINGS
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"::error file={bad},line=5,title=KTO101 invalid-json::unexpected end of data at column 2"
    assert len({line.split("title=")[1].split("::")[0] for line in lines}) == len(lines)
    assert summary.read_text().startswith("before\n### ktodata validate: 2 errors, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}/goood.jsonl"], "did you mean {folder}/good.jsonl?"),
        (["{folder}/empty.jsonl"], "has no rows"),
        (["{folder}/blank.jsonl"], "only blank lines"),
        ([], "no data file is named"),
        (["{folder}/good.jsonl", "--select", "KTO35"], "did you mean KTO305?"),
        (["{folder}/good.jsonl", "--ignore", "KTO"], "no rule is left to run"),
        (["{folder}/good.jsonl", "--image-root", "{folder}/no"], "is not a folder"),
        (["{folder}/good.jsonl", "--format", "sharegtp"], "did you mean 'sharegpt'?"),
        (["{folder}/good.jsonl", "--images", "maybe"], "'maybe'"),
        (["{folder}/good.jsonl", "--dataset", "x"], "--dataset-info and --dataset go together"),
        (["{folder}/good.jsonl", "-o", "{folder}/no/report"], "cannot write"),
        (["{folder}/good.jsonl", "--image-min-pixels", "9", "--image-max-pixels", "4"], "swap the two numbers"),
    ],
)
def test_what_cannot_be_checked_is_exit_2_and_one_clear_line(
    arguments: list[str], said: str, good: Path, capsys: Capture
) -> None:
    folder = good.parent
    (folder / "empty.jsonl").touch()
    (folder / "blank.jsonl").write_text("\n \n")
    assert _validate(*(argument.format(folder=folder) for argument in arguments)) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said.format(folder=folder) in captured.err
    assert "Traceback" not in captured.err

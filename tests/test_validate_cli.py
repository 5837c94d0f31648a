"""`ktodata validate` as a program: exit codes, streams and options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl

from kto_data.cli import main


def answered(answer: str, **overrides: Any) -> dict[str, Any]:
    return make_record(
        messages=[{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}], **overrides
    )


@pytest.fixture
def clean(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "clean.jsonl", [answered("one"), answered("two", label=False)]))


@pytest.fixture
def broken(tmp_path: Path) -> str:
    rows = [answered("a", label="true"), answered("b", lable=2), answered("c", label=False), answered("d")]
    return str(write_jsonl(tmp_path / "broken.jsonl", rows))


def test_exit_codes_tell_clean_found_and_could_not_run(clean: str, broken: str, tmp_path: Path) -> None:
    assert main(["validate", clean]) == 0
    assert main(["validate", broken]) == 1
    assert main(["validate", broken, "--exit-zero"]) == 0
    assert main(["validate", str(tmp_path / "missing.jsonl")]) == 2
    (tmp_path / "without data").mkdir()
    assert main(["validate", str(tmp_path / "without data")]) == 2
    assert main(["validate", str(write_jsonl(tmp_path / "empty.jsonl", []))]) == 2
    assert main(["validate", clean, "--no-such-option"]) == 2
    assert main(["no-such-command"]) == 2


def test_the_fail_level_decides_which_findings_fail(tmp_path: Path) -> None:
    rows = [answered("one"), answered("one"), answered("two", label=False), answered("three", label=False)]
    warned = str(write_jsonl(tmp_path / "warned.jsonl", rows))
    assert main(["validate", warned]) == 0
    assert main(["validate", warned, "--fail-level", "warning"]) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--select", "KTO402"], ["KTO402"]),
        (["--select", "KTO40", "--ignore", "KTO404"], ["KTO402"]),
        (["--select", "KTO402", "--extend-select", "KTO111"], ["KTO402", "KTO111"]),
    ],
)
def test_rules_are_selected_by_prefix(
    broken: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["validate", broken, "--output-format", "concise", *options])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == expected


def test_an_unknown_rule_is_a_usage_error(clean: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", clean, "--select", "KTO999"]) == 2
    assert "KTO999" in capsys.readouterr().err


def test_quiet_prints_findings_alone(clean: str, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", clean, "-q"])
    assert capsys.readouterr() == ("", "")
    main(["validate", broken, "-q"])
    captured = capsys.readouterr()
    assert "KTO402" in captured.out
    assert "desirable  " not in captured.out
    assert captured.err == ""


def test_a_report_goes_where_it_is_asked_to(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", broken, "--output-format", "concise", "-o", str(tmp_path / "out.txt")]) == 1
    assert "KTO402" in (tmp_path / "out.txt").read_text()
    assert capsys.readouterr().out == ""


def test_what_is_named_for_two_splits_or_leads_nowhere_is_told_of(
    clean: str, broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", clean, broken, "--split", f"eval={broken}", "--exit-zero"]) == 0
    assert f"note: {broken} is of the split eval alone, though it is named besides\n" in capsys.readouterr().err
    assert main(["validate", str(tmp_path), "--split", f"eval={broken}", "--exit-zero"]) == 0
    assert "besides" not in capsys.readouterr().err  # of a folder that is what is meant
    (tmp_path / "link.jsonl").symlink_to("nowhere.jsonl")
    for named in (tmp_path, tmp_path / "*.jsonl"):
        assert main(["validate", str(named)]) == 2  # its rows would be missing
        assert "link.jsonl is a link to a file that does not exist" in capsys.readouterr().err


def test_statistics_are_in_no_format_for_machines(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", broken, "--statistics"]) == 1
    assert "KTO402  error" in capsys.readouterr().out
    assert main(["validate", broken, "--statistics", "--output-format", "json"]) == 2
    assert capsys.readouterr().out == ""


def test_standard_input_is_a_dash(broken: str) -> None:
    command = [sys.executable, "-m", "kto_data", "validate", "-", "--output-format", "concise"]
    done = subprocess.run(command, input=Path(broken).read_bytes(), capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(b"-:1: KTO402")


def test_colours_come_only_where_wanted(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", broken])
    assert "\x1b[" not in capsys.readouterr().out
    main(["validate", broken, "--color", "always"])
    assert "\x1b[" in capsys.readouterr().out

"""Where the settings of `ktodata validate` come from: command line, environment, configuration file, default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import make_record, write_jsonl

from kto_data.cli import build_app, main
from kto_data.config_file import find_config
from kto_data.settings import Given, ValidateSettings, known_keys, resolve


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `data.jsonl`: four records, the first with a misspelt field (KTO111). The current one."""
    texts = ("a", "b", "c", "d")
    rows = [
        make_record(
            messages=[{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}], label=text < "c"
        )
        for text in texts
    ]
    write_jsonl(tmp_path / "data.jsonl", [{**rows[0], "lable": True}, *rows[1:]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """Key -> (value, origin)."""
    assert main(["validate", "--show-settings", *arguments]) == 0
    lines = [line.removeprefix("# ").split("  # ") for line in capsys.readouterr().out.splitlines()]
    return {left.split(" = ")[0]: (left.split(" = ")[1], origin) for left, origin in lines}


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["validate", *arguments]) == 2
    return capsys.readouterr().err


def test_command_line_is_over_environment_over_file_over_default(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings_shown(capsys)["show"] == ("5", "default")
    (project / "ktodata.toml").write_text("show = 6\n")
    assert settings_shown(capsys)["show"] == ("6", str(project / "ktodata.toml"))
    monkeypatch.setenv("KTODATA_SHOW", "7")
    assert settings_shown(capsys)["show"] == ("7", "KTODATA_SHOW")
    assert settings_shown(capsys, "--config", "show=8")["show"] == ("8", "--config show=8")
    assert settings_shown(capsys, "--config", "show=8", "--show", "9")["show"] == ("9", "--show")
    assert settings_shown(capsys, "--isolated")["show"] == ("7", "KTODATA_SHOW")


def test_the_nearest_file_with_settings_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "ktodata.toml").touch()
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\n")
    assert find_config(inner) == tmp_path / "ktodata.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.ktodata]\n")
    assert find_config(inner) == tmp_path / "a" / "pyproject.toml"
    (tmp_path / "a" / "ktodata.toml").touch()
    assert find_config(inner) == tmp_path / "a" / "ktodata.toml"
    (tmp_path / "a" / ".ktodata.toml").touch()
    assert find_config(inner) == tmp_path / "a" / ".ktodata.toml"


def test_paths_in_a_file_start_at_its_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "sub").mkdir()
    (project / "pyproject.toml").write_text(
        '[tool.ktodata]\npaths = ["data.jsonl"]\nimage-root = "pictures"\nreport = ["json:found.json"]\n'
    )
    monkeypatch.chdir(project / "sub")
    shown = settings_shown(capsys)
    assert (shown["paths"][0], shown["image-root"][0]) == ('["../data.jsonl"]', '"../pictures"')
    (project / "pictures").mkdir()
    assert main(["validate", "-q"]) == 1
    assert (project / "found.json").is_file()


def test_a_model_in_a_file_starts_at_its_folder_where_it_is_there_and_is_else_the_id_of_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "sub").mkdir()
    (project / "pyproject.toml").write_text('[tool.ktodata]\nmodel = "maker/model"\n')
    monkeypatch.chdir(project / "sub")
    assert settings_shown(capsys)["model"][0] == '"maker/model"'
    (project / "maker/model").mkdir(parents=True)
    assert settings_shown(capsys)["model"][0] == '"../maker/model"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fail-leval = 'error'", "ktodata.toml:1: unknown key fail-leval\nktodata:   try: did you mean fail-level?"),
        ("\nfail_level = 'error'", "ktodata.toml:2: unknown key fail_level\nktodata:   try: did you mean fail-level?"),
        ("show = '5'", "ktodata.toml:1: show must be a valid integer, not '5'"),
        ("jobs = 0", "ktodata.toml:1: jobs must be greater than or equal to 1, not 0"),
        ("fail-level = 'bad'", "fail-level must be 'error', 'warning' or 'info', not 'bad'"),
        ("[[suppress]]\nrule = 'KTO111'", "ktodata.toml:1: suppress.0.reason is not set"),
        ("[thresholds]\nKTO111 = 'much'", "the threshold of KTO111 is 'much'"),
        ("[severity]\nKTO999 = 'error'", "no rule has the code 'KTO999'"),
        ("show = ", "ktodata.toml is not TOML"),
        ("limit = 99999999999999999999", "ktodata.toml:1: limit cannot be taken: Integer exceeds 64-bit range"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_key_file_and_line(
    project: Path, text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "ktodata.toml").write_text(text)
    assert expected in error_of(capsys, "data.jsonl")


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nktodata = 3", "[tool.ktodata]\nlimit = 99999999999999999999"])
def test_a_project_file_may_hold_anything(project: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pyproject.toml").write_text(text)
    has_settings = "ktodata" in text
    assert main(["validate", "data.jsonl", "-q", "--exit-zero"]) == (2 if has_settings else 0)
    assert ("pyproject.toml" in capsys.readouterr().err) == has_settings
    assert main(["init", "."]) == 0


@pytest.mark.parametrize(
    ("option", "value", "form"),
    [
        ("--severity", "KTO111", "CODE=LEVEL"),
        ("--severity", "KTO111=", "CODE=LEVEL"),
        ("--threshold", "KTO111", "CODE=NUMBER"),
        ("--per-file-ignores", "data.jsonl", "PATTERN:CODES"),
        ("--map", "label=", "NAME=COLUMN"),
        ("--split", "=data.jsonl", "SPLIT=PATH"),
    ],
)
def test_an_entry_of_no_form_is_told_the_form(
    project: Path, option: str, value: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {option} {value} is not {form}\n" in error_of(capsys, "data.jsonl", option, value)


def test_config_names_one_file_and_any_number_of_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mine.toml").write_text("show = 6\n")
    (project / "ktodata.toml").write_text("show = 1\nquiet = true\n")
    shown = settings_shown(capsys, "--config", "mine.toml", "--config", "fail-level=warning")
    assert (shown["show"][0], shown["fail-level"][0], shown["quiet"][0]) == ("6", '"warning"', "false")
    assert "2 files" in error_of(capsys, "--config", "mine.toml", "--config", "ktodata.toml")
    assert "none.toml does not exist" in error_of(capsys, "--config", "none.toml")
    assert "unknown key sho" in error_of(capsys, "--config", "sho=5")


def test_entries_of_a_table_are_settings_of_their_own(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "ktodata.toml").write_text("[severity]\nKTO111 = 'info'\nKTO405 = 'info'\n")
    shown = settings_shown(capsys, "--severity", "KTO111=warning")
    assert shown["severity"][0] == '{"KTO111":"warning","KTO405":"info"}'


def test_help_and_settings_have_the_same_options_and_defaults() -> None:
    command = typer.main.get_command(build_app()).commands["validate"]  # type: ignore[attr-defined]
    defaults = {p.name.replace("_", "-"): p.default for p in command.params}
    elsewhere = {"config", "isolated", "show-settings", "help"}
    only_in_files = {"suppress"}
    assert known_keys() - only_in_files <= defaults.keys()
    settings = ValidateSettings()
    for key in known_keys() - only_in_files:
        assert (defaults[key] or None) == (getattr(settings, key.replace("-", "_")) or None), key
    assert elsewhere - defaults.keys() <= {"help"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"paths": ["a.jsonl", "b.jsonl"], "select": ["KTO1,KTO2"], "show": 0, "quiet": True},
        {"image-root": "pictures", "baseline": "known.json", "fail-level": "info", "jobs": 3},
    ],
)
def test_what_typer_has_checked_is_taken_as_pydantic_would(options: dict[str, Any], tmp_path: Path) -> None:
    given = {key: Given(value, f"--{key}") for key, value in options.items()}
    plainly = resolve(given, {}, isolated=True)
    checked = resolve(given, {}, config=["show=5"], isolated=True)  # which has it all checked
    assert plainly.settings == checked.settings

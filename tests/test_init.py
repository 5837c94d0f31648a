"""`ktodata init`, and the files that other programs read: hooks, the action, workflows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import make_record, write_jsonl

from kto_data.cli import main
from kto_data.init import HOOKS_PATH, WORKFLOW_PATH

ROOT = Path(__file__).parents[1]


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def validates(schema: str, *paths: Path) -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_new_repository_gets_settings_hook_and_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]
    write_jsonl(tmp_path / "data" / "a.jsonl", [make_record(), make_record(messages=other, label=False)])
    assert main(["init", str(tmp_path)]) == 0
    assert set(snapshot(tmp_path)) == {"data/a.jsonl", "ktodata.toml", HOOKS_PATH, WORKFLOW_PATH}
    validates("vendor.github-workflows", tmp_path / WORKFLOW_PATH)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert main(["validate"]) == 0  # the settings name the file


@pytest.mark.parametrize("before", ["", "[project]\nname = 'mine'", "[tool.other]\nkey = 1\n"])
def test_the_table_is_added_to_a_pyproject(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(before)
    assert main(["init", str(tmp_path)]) == 0
    text = (tmp_path / "pyproject.toml").read_text()
    assert text.startswith(before)
    assert not (tmp_path / "ktodata.toml").exists()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["validate", "--show-settings"]) == 0
    assert f'fail-level = "error"  # {tmp_path}/pyproject.toml' in capsys.readouterr().out


def test_every_line_that_init_leaves_in_comment_is_a_setting_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ktodata.toml", "pyproject.toml"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "pyproject.toml":
            (folder / name).touch()
        assert main(["init", str(folder)]) == 0
        text = (folder / name).read_text()
        (folder / name).write_text(re.sub(r"^# (?=[\w\[])(?!How)", "", text, flags=re.MULTILINE))
        monkeypatch.chdir(folder)
        assert main(["validate", "--show-settings"]) == 0


def test_a_second_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    (tmp_path / HOOKS_PATH).write_text("# mine\nrepos:\n  - repo: meta\n    hooks:\n      - id: identity\n")
    assert main(["init", str(tmp_path)]) == 0
    before = snapshot(tmp_path)
    assert before[HOOKS_PATH].startswith("# mine\n")
    assert [entry["repo"] for entry in yaml.safe_load(before[HOOKS_PATH])["repos"]] == ["meta", "local"]
    capsys.readouterr()
    assert main(["init", str(tmp_path)]) == 0
    assert snapshot(tmp_path) == before
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["left"] * 3


@pytest.mark.parametrize(
    "hooks", ["repos: []\n", "repos:\n  - repo: meta\n    hooks: []\nfail_fast: true\n", "a: [", "", "repos:\n"]
)
def test_hooks_that_cannot_grow_at_their_end_are_left_and_shown(
    tmp_path: Path, hooks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / HOOKS_PATH).write_text(hooks)
    assert main(["init", str(tmp_path)]) == 0
    assert (tmp_path / HOOKS_PATH).read_text() == hooks
    assert "add to it:\n  - repo: local" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path), "--dry-run"]) == 0
    assert snapshot(tmp_path) == {}
    assert f"would write {tmp_path}/ktodata.toml" in capsys.readouterr().out
    assert main(["init", str(tmp_path / "none")]) == 2


def test_the_action_is_one_and_names_its_inputs_as_they_are_used() -> None:
    validates("vendor.github-actions", ROOT / "action.yml")
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(yaml.safe_load(text)["inputs"])
    scripts = [step["run"] for step in yaml.safe_load(text)["runs"]["steps"] if "run" in step]
    assert not any("${{" in script for script in scripts)  # an input may hold anything, a command too


def test_the_snippets_of_the_page_are_what_their_readers_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    hooks, workflow, gitlab = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    for name, text in (("workflow.yml", workflow), (".gitlab-ci.yml", gitlab)):
        (tmp_path / name).write_text(text)
    validates("vendor.github-workflows", tmp_path / "workflow.yml")
    validates("vendor.gitlab-ci", tmp_path / ".gitlab-ci.yml")
    offered = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    assert {hook["id"] for hook in yaml.safe_load(hooks)["repos"][0]["hooks"]} == offered
    used = set(yaml.safe_load(workflow)["jobs"]["validate"]["steps"][1]["with"])
    assert used <= set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    (settings,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(settings)
    write_jsonl(tmp_path / "data" / "a.jsonl", [make_record()])
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "--exit-zero", "-q"]) == 0


def test_the_script_of_the_action_runs_and_passes_the_exit_code_on(tmp_path: Path) -> None:
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("id") == "validate")
    installed = tmp_path / "ktodata-env" / "bin"
    installed.mkdir(parents=True)
    (installed / "ktodata").symlink_to(Path(sys.executable).with_name("ktodata"))
    write_jsonl(tmp_path / "data" / "a.jsonl", [make_record(label="yes")])
    output, summary = tmp_path / "output", tmp_path / "summary"
    variables = {"PATHS": "data/*.jsonl", "ARGS": "--ignore KTO4,KTO6", "FAIL_LEVEL": "info", "SUMMARY": "true"}
    where = {"RUNNER_TEMP": tmp_path, "GITHUB_OUTPUT": output, "GITHUB_STEP_SUMMARY": summary, "PATH": "/usr/bin:/bin"}
    environment = {**variables, **{name: str(value) for name, value in where.items()}, "CI": "true"}
    for args, expected in (("--ignore KTO4,KTO6", 0), ("--select KTO402", 1), ("--select KTO999", 2)):
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
            cwd=tmp_path, env={**environment, "ARGS": args}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == expected, done.stderr
    assert (
        output.read_text() == "exit-code=0\nhas-sarif=true\nexit-code=1\nhas-sarif=true\nexit-code=2\nhas-sarif=true\n"
    )
    assert "KTO402" in summary.read_text()

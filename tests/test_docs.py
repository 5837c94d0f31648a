"""Generated pages are current, and every command and option has words."""

from __future__ import annotations

import json
from pathlib import Path

import generate
import pytest
import typer

from kto_data.cli import COMMANDS, build_app, main
from kto_data.rules import ALL_RULES
from kto_data.schema import SCHEMAS, schema_text

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_those_of_the_models(name: str) -> None:
    text = (ROOT / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    assert text == schema_text(name), "run `make generated`"
    assert json.loads(text)["$id"] == f"urn:ktodata:schema:{name}:{SCHEMAS[name][1]}"


def test_no_schema_is_published_without_a_model() -> None:
    assert {path.stem for path in (ROOT / "schemas").glob("*.json")} == set(SCHEMAS)


def test_a_schema_is_printed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "record"]) == 0
    assert capsys.readouterr().out == schema_text("record")
    assert main(["schema", "recrod"]) == 2
    assert "did you mean record?" in capsys.readouterr().err


def test_generated_pages_are_current() -> None:
    wanted = generate.pages()
    there = {path for folder in ("rules", "schemas") for path in (ROOT / "docs" / folder).glob("*.md")}
    assert there | {ROOT / "docs" / "cli.md"} == set(wanted), "run `make generated`"
    assert [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text] == [], (
        "run `make generated`"
    )


def test_all_rules_are_printed_as_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rule", "--all", "--markdown"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("### ")] == [
        f"### {rule.code} {rule.name}" for rule in ALL_RULES
    ]


def test_a_rule_is_explained_by_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rule", "KTO305"]) == 0
    assert "Placeholders and images must agree in number." in capsys.readouterr().out
    assert main(["rule", "KTO999"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_made_ready_alone_is_what_it_is_among_all(name: str) -> None:
    alone, among_all = (
        typer.main.get_command(app).commands  # type: ignore[attr-defined]  # both are groups
        for app in (build_app(command=name), build_app())
    )
    assert list(alone) == [name]
    described = [
        [(p.name, p.opts, p.default, p.required, getattr(p, "help", None)) for p in commands[name].params]
        for commands in (alone, among_all)
    ]
    assert described[0] == described[1]


def test_what_is_no_command_of_ours_is_looked_for_among_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validat"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert main(["train", "--help"]) == 0


def test_every_command_and_option_has_help() -> None:
    group = typer.main.get_command(build_app())
    commands = group.commands  # type: ignore[attr-defined]  # typer makes a group of several commands
    assert {"validate", "preprocess", "train", "rule", "schema"} <= set(commands)
    for command in commands.values():
        assert command.help
        assert [p.name for p in command.params if not getattr(p, "help", None)] == []

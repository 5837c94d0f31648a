"""The README shows what the program says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kto_data.cli import main

ROOT = Path(__file__).parents[1]


def test_findings_in_the_readme_are_those_of_the_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["validate", "examples/broken.jsonl", "--output-format", "concise"]) == 1
    said = capsys.readouterr().out.splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown = [line.strip() for line in readme if line.startswith("    examples/broken.jsonl:")]
    assert len(shown) > 5
    assert [line for line in shown if line not in said] == []


def test_what_can_be_mended_in_the_example_is_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    main(["validate", "examples/broken.jsonl", "--diff"])
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "would be mended" in line]
    assert f"    {said}" in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

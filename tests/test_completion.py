"""What the shell offers for a word that is begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kto_data.rules import ALL_RULES


def offered(line: str) -> list[str]:
    """What bash would be told for the last word of a command line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_KTODATA_COMPLETE": "complete_bash"}
    program = Path(sys.executable).with_name("ktodata")
    done = subprocess.run([program], env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ktodata val", ["validate"]),
        ("ktodata validate --select KTO401", ["KTO401"]),
        ("ktodata validate --ignore KTO11", [rule.code for rule in ALL_RULES if rule.code.startswith("KTO11")]),
        ("ktodata validate --select KTO1,KTO40", None),
        ("ktodata validate --extend-select unused", ["unused-suppression"]),
        ("ktodata rule KTO305", ["KTO305"]),
        ("ktodata validate --severity KTO305", ["KTO305="]),
        ("ktodata validate --images h", ["header"]),
        ("ktodata validate --format share", ["sharegpt"]),
        ("ktodata validate --report sar", ["sarif:"]),
    ],
)
def test_what_is_begun_is_completed(line: str, expected: list[str] | None) -> None:
    if expected is None:
        expected = [f"KTO1,{rule.code}" for rule in ALL_RULES if rule.code.startswith("KTO40")]
    assert offered(line) == expected


def test_families_are_offered_before_anything_is_typed() -> None:
    assert {"KTO1", "KTO2", "KTO305"} <= set(offered("ktodata validate --select "))


def test_completion_can_be_installed() -> None:
    program = Path(sys.executable).with_name("ktodata")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert "--install-completion" in done.stdout

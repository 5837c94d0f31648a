"""A bar on a terminal, which a pseudo-terminal is, and lines where there is none."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

STEPS = (
    "import sys; from kto_data.progress import StepBar\n"
    "with StepBar(lambda line: print(line, file=sys.stderr)) as bar:\n"
    "    bar.say('before the first step')\n"
    "    bar.update(1, 4, left='0:00:03 left')\n"
    "    bar.say('said [on] the way')\n"
    "    bar.update(4, 4, state='loss 0.4981, KL 0.0100', left='')\n"
    "bar.say('after it')\n"
)


def test_on_a_terminal_there_is_a_bar_and_lines_are_said_above_it() -> None:
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", STEPS], stderr=slave, env=env, check=True)
    os.close(slave)
    said = os.read(master, 100_000).decode()
    os.close(master)
    places = [
        said.index(text)
        for text in ("before the first step", "said [on] the way", "4/4", "loss 0.4981, KL", "after it")
    ]
    assert places == sorted(places)
    assert "━" in said


def test_without_a_terminal_there_are_lines_alone() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert done.stderr == "before the first step\nsaid [on] the way\nafter it\n"


def test_a_reading_for_a_purpose_of_its_own_is_told_as_such() -> None:
    steps = (
        "from kto_data import progress as module\n"
        "module._SECONDS_BETWEEN_LINES = 0\n"
        "told = module.Progress('preprocess')\n"
        "told.advance_to(1000, 0, 0.5, stage='first pass')\n"
        "told.advance_to(10, 2, 0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert first.startswith("preprocess: first pass · 1,000 rows · ")
    assert second.startswith("preprocess: 10 rows · ")

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

CLOCK = (
    "from kto_data import progress as module\n"
    "class Clock:\n"
    "    now = 0.0\n"
    "    def monotonic(self): return self.now\n"
    "module.time = clock = Clock()\n"
)


def said_on_a_terminal(steps: str) -> str:
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", steps], stderr=slave, env=env, check=True)
    os.close(slave)
    said = os.read(master, 100_000).decode()
    os.close(master)
    return said


def test_on_a_terminal_there_is_a_bar_and_lines_are_said_above_it() -> None:
    said = said_on_a_terminal(STEPS)
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
        CLOCK + "with module.Progress('preprocess') as told:\n"
        "    clock.now = 10\n"
        "    told.advance_to(1000, 0, 0.5, stage='first pass')\n"
        "    clock.now = 20\n"
        "    told.advance_to(10, 2, 0.5)\n"
    )
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert first.startswith("preprocess: first pass · 1,000 rows · ")
    assert second.startswith("preprocess: 10 rows · ")


def told(steps: str) -> list[str]:
    """The lines of a command without a terminal, where a line is due every tenth of a second."""
    setting = "import time; from kto_data import progress as module; module._SECONDS_BETWEEN_LINES = 0.1\n"
    done = subprocess.run([sys.executable, "-c", setting + steps], capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr.splitlines()


def test_a_line_says_all_there_is_every_ten_seconds_and_no_sooner() -> None:
    steps = (
        CLOCK + "with module.Progress('preprocess') as told:\n"
        "    for clock.now, rows in ((9, 2_000), (10, 3_000), (19, 4_000), (20, 12_000), (21, 13_000)):\n"
        "        told.advance_to(rows, 2, rows / 15_000, 3, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "preprocess: 3,000 rows · 300 rows/s · 2 dropped · 3 shards · 1 failed · 40 s left",
        "preprocess: 12,000 rows · 600 rows/s · 2 dropped · 3 shards · 1 failed · 5 s left",
    ]


def test_it_is_said_again_while_nothing_is_finished_and_not_afterwards() -> None:
    waiting = "told.advance_to(7, 0)\n    time.sleep(1)\n"
    over = "print('over', file=__import__('sys').stderr)\ntime.sleep(0.5)\n"
    lines = told(f"with module.Progress('preprocess') as told:\n    {waiting}{over}")
    assert len(lines) > 2
    assert lines[-1] == "over"
    assert all(line.startswith("preprocess: 7 rows · ") for line in lines[:-1])
    assert told(f"with module.Progress('preprocess', enabled=False) as told:\n    {waiting}") == []


def test_rows_have_a_bar_on_a_terminal() -> None:
    steps = (
        "from kto_data.progress import Progress; import time\n"
        "with Progress('preprocess') as told:\n"
        "    told.advance_to(1234, 5, 0.5, 2)\n"
        "    time.sleep(0.5)\n"
    )
    said = said_on_a_terminal(steps)
    assert "preprocess 1,234 rows · " in said
    assert " · 5 dropped · 2 shards · " in said

"""Draws the terminal's picture of a validation for the README: `python examples/draw_report.py docs/report.svg`."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = ["validate", "examples/broken.jsonl", "--select", "KTO201,KTO305,KTO401,KTO402,KTO404"]
WIDTH = 84


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    picture: Path = parser.parse_args().picture
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    shown = subprocess.run(
        [sys.executable, "-m", "kto_data", *COMMAND, "--color", "always"],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text(f"$ ktodata {' '.join(COMMAND[:2])}", style="bold"))
    console.print(Text.from_ansi(shown.replace(f"{Path.cwd()}/", "")))
    console.save_svg(str(picture), title="ktodata validate", unique_id="ktodata")


if __name__ == "__main__":
    main()

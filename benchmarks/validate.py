"""How long `ktodata validate` takes against a bare `orjson.loads` loop over the same lines.

    python benchmarks/validate.py [--rows 100000] [--jobs 1,2] [--data REAL.json] [--keep DIR]

Both are whole processes, start-up included, run by turns; the best of each counts. The rows are written by the script,
of the lengths of LLaMA-Factory's kto_en_demo; `--data` takes real rows instead and varies each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = "import orjson, sys\nfor line in open(sys.argv[1], 'rb'):\n    orjson.loads(line)\n"
WORDS = (
    "the model answers a question about data and labels with care, because each answer was judged by a person who "
    "read it whole: some were helpful, others were not. A list follows\n\n1. first\n2. second\n(see [link] below) "
    'and "quoted words" with dashes — or café, naïve, 10% of 4,000'
).split(" ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a JSON array of real rows to vary")
    parser.add_argument("--keep", type=Path, help="folder for the file of rows; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.keep or Path(scratch)) / "rows.jsonl"
        write_rows(path, options.rows, options.data)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB")
        print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors")
        measure(path, [int(jobs) for jobs in options.jobs.split(",")], options.repeats)


def measure(path: Path, jobs: list[int], repeats: int) -> None:
    commands = {"orjson.loads loop": [sys.executable, "-c", BARE, str(path)]}
    for number in jobs:
        validate = [sys.executable, "-m", "kto_data", "validate", str(path), "--jobs", str(number), "-q"]
        commands[f"ktodata validate --jobs {number}"] = [*validate, "--exit-zero"]
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(repeats):
        for name, command in commands.items():
            best[name] = min(best[name], seconds(command))
    bare = best["orjson.loads loop"]
    for name, taken in best.items():
        print(f"{name:<28} {taken:6.2f} s   {taken / bare:5.2f} x")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def write_rows(path: Path, count: int, data: Path | None) -> None:
    rng = random.Random(0)
    rows = json.loads(data.read_text()) if data else [made_row(rng) for _ in range(300)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            messages = [*row["messages"][:-1], varied(row["messages"][-1], number)]
            file.write(json.dumps({**row, "messages": messages}, ensure_ascii=False) + "\n")


def varied(message: dict[str, str], number: int) -> dict[str, str]:
    return {**message, "content": f"{message['content']} ({number})"}


def made_row(rng: random.Random) -> dict[str, object]:
    """A conversation of 2 to 12 messages, about 3 kB in all."""
    num_turns = rng.choice((1, 1, 1, 2, 2, 3, 4, 6))
    lengths = [(rng.randrange(10, 120), rng.randrange(60, 320)) for _ in range(num_turns)]
    messages = []
    for asked, answered in lengths:
        messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=asked))})
        messages.append({"role": "assistant", "content": " ".join(rng.choices(WORDS, k=answered))})
    return {"messages": messages, "label": rng.random() < 0.5}


if __name__ == "__main__":
    main()

"""How long `ktodata validate` takes against a bare `orjson.loads` loop over the same lines.

    python -m benchmarks.validate [--rows 100000] [--jobs 1,2] [--data REAL.json] [--peers] [--sourcemeta EXE]

All are whole processes, start-up included, run by turns; the best of each counts, in wall and in processor time (which
tells more where the machine has other work), and the most memory that any process of it held. Byte code is kept between
the runs, as that of an installed package is. The rows are written by
the script, of the lengths of LLaMA-Factory's kto_en_demo; `--data` takes real rows instead and varies each. `--peers`
adds check-jsonschema, `--sourcemeta` the `jsonschema` of npm's @sourcemeta/jsonschema: both check the shape of a row
and nothing else.
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
from typing import NamedTuple

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
    parser.add_argument("--peers", action="store_true", help="measure check-jsonschema too")
    parser.add_argument("--sourcemeta", type=Path, help="the executable of @sourcemeta/jsonschema, to be measured too")
    parser.add_argument("--keep", type=Path, help="folder for the file of rows; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.keep or Path(scratch)) / "rows.jsonl"
        write_rows(path, options.rows, options.data)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB")
        print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors")
        # Asked of a process of its own: what this one has imported would count as memory of those that it starts.
        asked = [sys.executable, "-c", "from kto_data.plain import scan; print('with' if scan else 'without')"]
        print(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip(), "compiled code")
        commands = {"orjson.loads loop": [sys.executable, "-c", BARE, str(path)]}
        for jobs in options.jobs.split(","):
            validate = [sys.executable, "-m", "kto_data", "validate", str(path), "--jobs", jobs, "-q", "--exit-zero"]
            commands[f"ktodata validate --jobs {jobs}"] = validate
        if options.peers:
            commands["check-jsonschema"] = check_jsonschema(path, Path(scratch))
        if options.sourcemeta:
            schema = write_schema(Path(scratch) / "row.json", ROW_SCHEMA)
            commands["@sourcemeta/jsonschema"] = [str(options.sourcemeta), "validate", str(schema), str(path)]
        measure(commands, options.repeats)


def measure(commands: dict[str, list[str]], repeats: int) -> None:
    runs: dict[str, list[Usage]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(repeats):
            for name, command in commands.items():
                runs[name].append(run(command, environment))
    best = {
        name: Usage(min(u.wall for u in used), min(u.processor for u in used), max(u.memory for u in used))
        for name, used in runs.items()
    }
    bare = next(iter(best.values()))
    print(f"{'':<28} {'wall':>8} {'':>8} {'processor':>12} {'':>8} {'memory':>9}")
    for name, used in best.items():
        print(
            f"{name:<28} {used.wall:6.2f} s {used.wall / bare.wall:6.2f} x"
            f" {used.processor:10.2f} s {used.processor / bare.processor:6.2f} x {used.memory / 1024:6,.0f} MB"
        )


class Usage(NamedTuple):
    """What a command took."""

    wall: float  # seconds
    processor: float  # seconds, of all its processes
    memory: int  # kB, of the largest of its processes


def run(command: list[str], environment: dict[str, str] | None = None) -> Usage:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == 0, command
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


ROW_SCHEMA = {
    "type": "object",
    "required": ["messages", "label"],
    "additionalProperties": False,
    "properties": {
        "messages": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "additionalProperties": False,
                "properties": {
                    "role": {"enum": ["system", "user", "assistant", "tool"]},
                    "content": {"type": "string", "minLength": 1},
                },
            },
        },
        "label": {"type": "boolean"},
        "images": {"type": "array", "items": {"type": "string"}},
    },
}


def check_jsonschema(path: Path, scratch: Path) -> list[str]:
    """Its command; it reads no JSON lines, so that it gets them as one array."""
    array = scratch / "rows-array.json"
    with path.open("rb") as lines, array.open("wb") as file:
        file.writelines((b"[" if number == 0 else b",") + line for number, line in enumerate(lines))
        file.write(b"]")
    schema = write_schema(scratch / "rows.json", {"type": "array", "items": ROW_SCHEMA})
    return [str(Path(sys.executable).with_name("check-jsonschema")), "--schemafile", str(schema), str(array)]


def write_schema(path: Path, schema: dict[str, object]) -> Path:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    path.write_text(json.dumps(schema), encoding="utf-8")
    return path


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

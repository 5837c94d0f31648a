"""What grows with the number of rows, and what must not: `validate` and `preprocess` on few rows and on many.

    python -m benchmarks.scale [--rows 100000] [--times 10] [--repeated 0] [--commands validate,preprocess]
                               [--engines local,ray]

Each command is a whole process, with two jobs. A third of the rows have an image, of which there are a few, named again
and again. Of the rows `--repeated` is the share that say what an earlier one said. Printed are rates, memory and bytes
written of the many rows as ratios to those of the few, and Ray's time as a ratio to that of processes. Memory is what
processes have for themselves (`RssAnon`), looked at ten times a second: pages of files, which the system takes back
when it needs them, are left out. The tiny model that rows are preprocessed for is made anew.
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
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.preprocess import draw_photo, tiny_model

JOBS = "2"
NUM_IMAGES = 64
WORDS = "river mountain copper window seven slow green bright under near table apple glass harbour letter".split()


@dataclass
class Cost:
    """What one run took."""

    wall: float = 0.0  # seconds
    memory: dict[int, int] = field(default_factory=dict)  # process -> most bytes that it had for itself
    processor: dict[int, float] = field(default_factory=dict)  # process -> seconds
    written: int = 0  # bytes, of all processes
    driver: int = 0  # the process of the command itself
    cache_bytes: int = 0

    @property
    def cpu(self) -> float:
        return sum(self.processor.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--repeated", type=float, default=0.0)
    parser.add_argument("--commands", default="validate,preprocess")
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--eval-fraction", default="", help="let `preprocess` look at all rows together first")
    parser.add_argument("--folder", type=Path, help="where data and caches go for the time of the run")
    options = parser.parse_args()
    print(f"ktodata {version('ktodata')}, ray {version('ray')}, Python {platform.python_version()}, {JOBS} jobs")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        model = tiny_model(folder / "model")
        few, many = options.rows, options.rows * options.times
        data = {count: make_rows(folder / f"rows-{count}.jsonl", count, options.repeated) for count in (few, many)}
        more = ["--eval-fraction", options.eval_fraction] if options.eval_fraction else []
        for command in options.commands.split(","):
            costs = {}
            for engine in options.engines.split(","):
                for count in (few, many):
                    cache = folder / "cache"
                    target = ["--model", str(model), "--output", str(cache), *more] if command == "preprocess" else []
                    costs[engine, count] = measured([command, str(data[count]), *target, "--engine", engine], cache)
                    subprocess.run(["rm", "-rf", str(cache)], check=True)
                show(command, engine, few, many, costs)
            if ("local", many) in costs and ("ray", many) in costs:
                local, ray = costs["local", many], costs["ray", many]
                start = costs["ray", few].wall - costs["local", few].wall
                print(
                    f"  Ray to processes at {many:,} rows: wall {ray.wall / local.wall:.2f} x, "
                    f"less {start:.0f} s of start-up {(ray.wall - start) / local.wall:.2f} x; "
                    f"CPU {ray.cpu / local.cpu:.2f} x"
                )
    return 0


def show(command: str, engine: str, few: int, many: int, costs: dict[tuple[str, int], Cost]) -> None:
    small, large = costs[engine, few], costs[engine, many]
    a_row = (large.memory[large.driver] - small.memory[small.driver]) / (many - few)
    print(f"\n{command} --engine {engine}: {many:,} rows to {few:,}")
    print(f"  rows a second     {many / large.wall / (few / small.wall):5.2f} x   ({many / large.wall:,.0f})")
    print(f"  rows a CPU second {many / large.cpu / (few / small.cpu):5.2f} x   ({many / large.cpu:,.0f})")
    print(f"  largest process   {max(large.memory.values()) / max(small.memory.values()):5.2f} x", end="")
    print(f"   ({max(large.memory.values()) / 2**20:,.0f} MiB)")
    print(f"  driver            {large.memory[large.driver] / small.memory[small.driver]:5.2f} x", end="")
    print(f"   ({large.memory[large.driver] / 2**20:,.0f} MiB), {a_row:.1f} bytes a row")
    if large.cache_bytes:
        print(f"  disk written      {large.written / large.cache_bytes:5.2f} x the cache")
    sys.stdout.flush()


def make_rows(path: Path, count: int, repeated: float = 0.0) -> Path:
    """JSON lines, of which a share repeats an earlier one; every third of the others has an image."""
    draw = random.Random(0)
    for number in range(NUM_IMAGES):
        image = path.with_name(f"{number}.jpg")
        if not image.exists():
            draw_photo(image, number, (200, 320), (200, 320))
    with path.open("w") as file:
        recent = deque[str](maxlen=1000)
        for line in lines(count, draw):
            if repeated and recent and draw.random() < repeated:
                line = draw.choice(recent)
            else:
                recent.append(line)
            file.write(line)
    return path


def lines(count: int, draw: random.Random) -> Iterator[str]:
    for number in range(count):
        has_image = number % 3 == 0
        asked = f"{'<image>' * has_image}Question {number}: {' '.join(draw.choices(WORDS, k=12))}?"
        answer = f"Answer {number}: {' '.join(draw.choices(WORDS, k=30))}."
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        images = [f"{draw.randrange(NUM_IMAGES)}.jpg"] * has_image
        yield json.dumps({"messages": messages, "label": draw.random() < 0.5, "images": images}) + "\n"


def measured(arguments: list[str], cache: Path) -> Cost:
    command = [sys.executable, "-m", "kto_data", *arguments, "--jobs", JOBS, "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    cost = Cost(driver=process.pid)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            # What a process wrote is added to that of its parent when it ends: so the sum over those that live is all.
            processes = watched, *watched.children(recursive=True)
            cost.written = max(cost.written, sum(note(one, cost) for one in processes))
        time.sleep(0.1)
    cost.wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    cost.cache_bytes = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return cost


def note(process: psutil.Process, cost: Cost) -> int:
    """Look at one process while it runs; the bytes that it and those it waited for have written."""
    with suppress(psutil.Error, OSError, ValueError, StopIteration):
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in status if line.startswith("RssAnon:")) * 1024
        cost.memory[process.pid] = max(own, cost.memory.get(process.pid, 0))
        times = process.cpu_times()
        cost.processor[process.pid] = times.user + times.system
        io = Path(f"/proc/{process.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in io if line.startswith("write_bytes:"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

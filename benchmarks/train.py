"""A training from a cache against stock TRL on the same rows: steps a second, padding, memory, and FLOPs as witness.

    python -m benchmarks.train [--shape llava-next] [--rows 48] [--repeats 2] [--no-checkpointing] [--lora]
    python -m benchmarks.train --shape qwen2.5-vl-2b --rows 64 --batch-size 8 --repeats 1 --loss kto --no-flops  # a GPU
    python -m benchmarks.train --shape llava-next-100m --rows 4 --batch-size 2 --repeats 1 --loss kto --no-flops
                                                                           # peak memory, of which it takes up to 3 GB

Stock TRL keeps its reference model and takes the rows in their order, which is random; ours has the reference's
log-probabilities cached, and groups rows of like length. Each training is an epoch in a process of its own, stock and
ours by turns, and the fastest of each counts. On processors alone, time is the CPU time of a single-threaded process
that loads its data itself; on a GPU it is the clock's, weights are bf16, and an epoch that is not timed comes first.
Prints ratios: times alone say more about the machine. The pass that caches the reference happens once for all epochs
and later runs, so it is told by itself.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.shapes import SHAPES, save
from benchmarks.train_once import Job, Taken
from benchmarks.train_rows import write_records
from kto_data.cli import main as ktodata

LOSSES = ("kto", "apo_zero_unpaired")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llava-next")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-checkpointing", action="store_true", help="keep activations: TRL's default does not")
    parser.add_argument("--lora", action="store_true", help="train an adapter of rank 16 instead of all weights")
    parser.add_argument("--loss", choices=LOSSES, help="this one alone")
    parser.add_argument("--no-flops", action="store_true", help="leave FLOPs uncounted, for which all is run once more")
    options = parser.parse_args()
    losses = LOSSES if options.loss is None else (options.loss,)
    with tempfile.TemporaryDirectory() as scratch:
        model, folder = Path(scratch) / "model", Path(scratch) / "rows"
        num_weights = save(options.shape, model)
        data = write_records(folder, SHAPES[options.shape], options.rows)
        with redirect_stdout(io.StringIO()):
            make = ["preprocess", str(data), "--model", str(model), "--output", str(folder / "cache"), "--quiet"]
            assert ktodata([*make, "--jobs", "1"]) == 0
        job = Job(
            is_stock=True,
            model=str(model),
            data=str(data),
            loss="",
            batch_size=options.batch_size,
            lora=options.lora,
            checkpointing=not options.no_checkpointing,
        )
        print(
            f"{options.shape}: {num_weights / 1e6:,.1f} million weights, {'LoRA' if job.lora else 'all trained'}, "
            f"{options.rows} rows in batches of {options.batch_size}, "
            f"gradient checkpointing {'on' if job.checkpointing else 'off'}",
            flush=True,
        )
        measured = {
            loss: measure(replace(job, loss=loss), options.repeats, with_flops=not options.no_flops) for loss in losses
        }
    for loss, (stock, ours) in measured.items():
        tell(
            f"{loss}: cached reference and groups by length, against live reference and rows as they come", stock, ours
        )
    if len(measured) == len(LOSSES):
        stock, ours = measured[LOSSES[0]][0], measured[LOSSES[1]][1]
        print(f"\nours with {LOSSES[1]} against stock with {LOSSES[0]}: {steps_a_second(stock, ours):.2f} x")


def measure(job: Job, repeats: int, *, with_flops: bool) -> tuple[Taken, Taken]:
    """Stock and ours: the fastest of each, with the FLOPs of a run by itself."""
    jobs = (job, replace(job, is_stock=False))
    runs: list[list[Taken]] = [[], []]
    for _ in range(repeats):
        for of_one, each in zip(runs, jobs, strict=True):
            of_one.append(in_process(each))
    stock, ours = (min(of_one, key=lambda taken: taken.seconds) for of_one in runs)
    if not with_flops:
        return stock, ours
    counted = [in_process(replace(each, count_flops=True)) for each in jobs]
    stock, ours = (
        replace(taken, flops=count.flops, setup_flops=count.setup_flops)
        for taken, count in zip((stock, ours), counted, strict=True)
    )
    return stock, ours


def in_process(job: Job) -> Taken:
    command = [sys.executable, "-m", "benchmarks.train_once", json.dumps(asdict(job))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    taken = Taken(**json.loads(ran.stdout.splitlines()[-1]))
    seconds = (
        f"{taken.steps} steps in {taken.seconds:.1f} s, of which {taken.step_seconds:.1f} s in forwards and backwards, "
        f"{taken.setup_seconds:.1f} s until the first"
    )
    who, peak = "stock" if job.is_stock else "ours", f"{taken.peak_bytes / MIB:,.0f} MiB at most"
    print(f"  {who}, {job.loss}: {seconds}, {peak}", flush=True)
    return taken


def steps_a_second(stock: Taken, ours: Taken) -> float:
    return (ours.steps / ours.seconds) / (stock.steps / stock.seconds)


def tell(title: str, stock: Taken, ours: Taken) -> None:
    before, after = (taken.padding / (taken.tokens + taken.padding) for taken in (stock, ours))
    print(f"\n{title} ({stock.device})")
    print(f"  steps a second        {steps_a_second(stock, ours):6.2f} x")
    if stock.flops:
        print(f"  FLOPs of a step       {stock.flops / stock.steps / (ours.flops / ours.steps):6.2f} x fewer")
    speed = (ours.tokens / ours.seconds) / (stock.tokens / stock.seconds)
    print(f"  tokens a second       {speed:6.2f} x, {stock.tokens / stock.seconds:,.0f} a second before")
    print(f"  padding               {before:6.1%} before, {after:.1%} now: {1 - after / before:.0%} less")
    print(f"  peak memory           {(stock.peak_bytes - ours.peak_bytes) / MIB:6.0f} MiB less of ", end="")
    print(f"{stock.peak_bytes / MIB:,.0f}; the reference model is {stock.reference_bytes / MIB:,.0f}")
    if stock.device != "CPU":  # whose allocator tells what was held, and no more
        estimated = sum(ours.estimated.values())
        parts = ", ".join(f"{part} {value / MIB:,.0f}" for part, value in ours.estimated.items() if value)
        print(f"  memory estimated      {estimated / MIB:6,.0f} MiB ({parts}), ", end="")
        print(f"{estimated / ours.peak_bytes - 1:+.0%} of the {ours.peak_bytes / MIB:,.0f} that were held")
    print(f"  weights held          {ours.held_bytes / MIB:6.0f} MiB, {stock.held_bytes / MIB:,.0f} before")
    if stock.flops:
        print(f"  caching the reference {ours.setup_flops / stock.flops:6.2f} of the FLOPs of a stock epoch, once")


if __name__ == "__main__":
    main()

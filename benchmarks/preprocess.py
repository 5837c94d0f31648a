"""`ktodata preprocess` against LLaMA-Factory, TRL, the model's own processor and a bare tokenizer, in one run.

    python -m benchmarks.preprocess --set-up                   environments for ktodata and for LLaMA-Factory, once
    python -m benchmarks.preprocess --model DIR [--data REAL.jsonl] [--quick] [--modes text,throughput,…]

All are whole processes on rows of the same making, and each is run twice, on many rows and on few: the difference is
what rows cost, the run on few is the start-up. Where a row costs ktodata far less than its start-up, it is given more
of them. Ratios are of CPU time, of all processes of a command, so that they hold on a busy machine; those of
`throughput` are of wall time and want a quiet one. `--model` is a folder with a tokenizer, a
chat template and an image processor; without it a tiny random model is made, and LLaMA-Factory, which knows no such
model, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.validate import made_row, varied

HERE = Path(__file__).parent
ROOT = HERE.parent
OURS = HERE / ".envs" / "ktodata"
LLAMA_FACTORY = HERE / ".envs" / "llama-factory"
PINS = ("llamafactory==0.9.5", "transformers==4.57.6")
ENVIRONMENT_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "OMP_NUM_THREADS": "1",  # torch's: those that wait for each other take CPU time for nothing
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "interpreter"))),  # torchvision beside a CPU torch
}
_TIMES_MORE_ROWS = 10  # with images, for ktodata: a row of its costs a thousandth of its start-up
FEW = 8  # rows of the run that stands for the start-up
SIZES = {"images-640x480": ((640, 640), (480, 480)), "images-1-2-megapixels": ((1000, 1600), (1000, 1250))}


@dataclass(frozen=True)
class Cost:
    """What a command took, all its processes together."""

    wall: float  # seconds
    cpu: float  # seconds
    memory: int  # kB that the largest of its processes held
    cache_bytes: int


@dataclass(frozen=True)
class Run:
    """A command on many rows and on `FEW`."""

    num_rows: int
    many: Cost
    few: Cost

    @property
    def cpu_a_row(self) -> float:
        """Seconds, start-up left out."""
        return (self.many.cpu - self.few.cpu) / (self.num_rows - FEW)

    @property
    def bytes_a_row(self) -> float:
        """What a row takes in the cache; 0 where there is none."""
        return self.many.cache_bytes / self.num_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set-up", action="store_true", help="make the environments and end")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, help="JSON lines of real text rows, to be varied")
    parser.add_argument("--template", default="qwen2_vl", help="LLaMA-Factory's name for the model's template")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--quick", action="store_true", help="fewer rows: minutes instead of an hour")
    options = parser.parse_args()
    if options.set_up:
        return set_up()
    print(f"ktodata {version('ktodata')}, transformers {version('transformers')}, trl {version('trl')}")
    print(f"peers: {', '.join(PINS) if has_llama_factory(options.model) else 'LLaMA-Factory left out'}")
    print(f"ktodata run by {our_python()}")
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.model, options.template, options.data, quick=options.quick)
        for mode in options.modes.split(","):
            print(f"\n{mode}")
            MODES[mode](bench)
    return 0


def set_up() -> int:
    """Install ktodata, as who preprocesses would, and LLaMA-Factory, each beside nothing of the other.

    In the environment of a developer are libraries that transformers imports wherever they are, and no user has all.
    torch comes first and stays, so that an index with a CPU wheel gives it, and nothing asks for gigabytes of CUDA.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"
    pinned = ("-c", str(ROOT / "constraints.txt"))
    for environment, wanted in ((OURS, (*pinned, f"{ROOT}[preprocess]", "torchvision")), (LLAMA_FACTORY, PINS)):
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([*pip, torch], check=True)
        subprocess.run([*pip, torch, *wanted], check=True)
    return 0


def our_python() -> str:
    """The interpreter that runs ktodata: of its own environment, where that was made."""
    python = OURS / "bin" / "python"
    return str(python) if python.exists() else sys.executable


def has_llama_factory(model: Path | None) -> bool:
    return model is not None and (LLAMA_FACTORY / "bin" / "llamafactory-cli").exists()


class Bench:
    """The rows, the models and the commands of one run."""

    def __init__(self, scratch: Path, model: Path | None, template: str, data: Path | None, *, quick: bool) -> None:
        self.scratch = scratch
        self.quick = quick
        self.template = template
        self.with_llama_factory = has_llama_factory(model)
        self.model = model or tiny_model(scratch / "model")
        self.text_model = text_model(self.model, scratch / "text-model")
        self._real = [json.loads(line) for line in data.read_bytes().splitlines()] if data else []
        self._num_runs = 0

    def texts(self, count: int) -> Path:
        """A file of rows of text, no two alike."""
        draw = random.Random(0)
        rows = self._real or [made_row(draw) for _ in range(300)]
        path = self.scratch / f"texts-{count}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                row = rows[number % len(rows)]
                first, *others, last = row["messages"]
                messages = [varied(first, number), *others, varied(last, number)]
                file.write(json.dumps({**row, "messages": messages}, ensure_ascii=False) + "\n")
        return path

    def images(self, mode: str, count: int, photos: int) -> Path:
        """A file of rows with one photo each, every photo a file of its own, of `photos` different contents."""
        path = self.scratch / mode / f"rows-{count}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as file:
            for number in range(count):
                image = path.with_name(f"{number}.jpg")
                if not image.exists():
                    first = path.with_name(f"{number % photos}.jpg")
                    if not first.exists():
                        draw_photo(first, number, *SIZES[mode])
                    if first != image:
                        shutil.copyfile(first, image)
                asked = {"role": "user", "content": f"<image>What is in picture {number}? Describe it in one sentence."}
                answer = {"role": "assistant", "content": f"A wooden table with {number} apples and a glass of water."}
                row = {"messages": [asked, answer], "label": number % 2 == 0, "images": [image.name]}
                file.write(json.dumps(row) + "\n")
        return path

    def ktodata(self, data: Path, model: Path, jobs: int = 1) -> Cost:
        cache = self._cache()
        ours = [our_python(), "-m", "kto_data", "preprocess", str(data), "--model", str(model), "--output", cache]
        return measured([*ours, "--jobs", str(jobs), "-q"], cache)

    def peer(self, script: str, *arguments: str, python: str = sys.executable, with_cache: bool = True) -> Cost:
        cache = self._cache()
        command = [python, str(HERE / "peers" / f"{script}.py"), *arguments]
        return measured([*command, cache] if with_cache else command, cache)

    def llama_factory(self, data: Path) -> Cost:
        python = str(LLAMA_FACTORY / "bin" / "python")
        return self.peer("llama_factory", str(data), str(self.model), self.template, python=python)

    def _cache(self) -> str:
        self._num_runs += 1
        return str(self.scratch / f"cache-{self._num_runs}")


def compare_texts(bench: Bench) -> None:
    count, text = 3_000 if bench.quick else 20_000, str(bench.text_model)
    many, few = bench.texts(count), bench.texts(FEW)

    def run(measure: Callable[[Path], Cost]) -> Run:
        return Run(count, measure(many), measure(few))

    runs = {"ktodata": run(lambda data: bench.ktodata(data, bench.text_model))}
    runs["TRL _prepare_dataset"] = run(lambda data: bench.peer("trl_prepare", str(data), text))
    if bench.with_llama_factory:
        runs["LLaMA-Factory"] = run(bench.llama_factory)
    show(runs)


def compare_images(mode: str) -> Callable[[Bench], None]:
    def compare(bench: Bench) -> None:
        photos = 100 if bench.quick else 1_000

        def run(count: int, measure: Callable[[Path], Cost]) -> Run:
            many, few = (bench.images(mode, number, photos) for number in (count, FEW))
            return Run(count, measure(many), measure(few))

        model = str(bench.model)
        runs = {"ktodata": run(photos * _TIMES_MORE_ROWS, lambda data: bench.ktodata(data, bench.model))}
        runs["the model's processor"] = run(
            photos, lambda data: bench.peer("processor_rows", str(data), model, with_cache=False)
        )
        if bench.with_llama_factory:
            runs["LLaMA-Factory"] = run(photos, bench.llama_factory)
        show(runs)

    return compare


def compare_throughput(bench: Bench) -> None:
    """Rows a second of two jobs against a bare tokenizer that uses every processor."""
    many, few = bench.texts(20_000 if bench.quick else 100_000), bench.texts(FEW)
    ours = [bench.ktodata(data, bench.text_model, jobs=2) for data in (many, few)]
    bare = [bench.peer("bare_tokenizer", str(data), str(bench.text_model), with_cache=False) for data in (many, few)]
    rows = many.read_bytes().count(b"\n") - FEW
    walls = {"ktodata --jobs 2": ours[0].wall - ours[1].wall, "bare encode_batch": bare[0].wall - bare[1].wall}
    for name, wall in walls.items():
        print(
            f"  {name:<24} {rows / wall:9,.0f} rows/s   {walls['bare encode_batch'] / wall:5.2f} x the bare tokenizer"
        )


def compare_memory(bench: Bench) -> None:
    """The most that any process of a run held, by the number of rows."""
    counts = (20_000, 100_000) if bench.quick else (100_000, 1_000_000)
    held = [bench.ktodata(bench.texts(count), bench.text_model).memory for count in counts]
    for count, memory in zip(counts, held, strict=True):
        print(f"  {count:>9,} rows {memory / 1024:8,.0f} MB   {memory / held[0]:4.2f} x")


MODES: dict[str, Callable[[Bench], None]] = {
    "text": compare_texts,
    **{mode: compare_images(mode) for mode in SIZES},
    "throughput": compare_throughput,
    "memory": compare_memory,
}


def show(runs: dict[str, Run]) -> None:
    ours = runs["ktodata"]
    print("  (times of ktodata's)     CPU of rows   CPU of start-up   wall of start-up   bytes of the cache")
    for name, run in runs.items():
        rows = run.cpu_a_row / ours.cpu_a_row
        cache = f"{run.bytes_a_row / ours.bytes_a_row:10.1f}" if run.bytes_a_row else "         -"
        start = f"{run.few.cpu / ours.few.cpu:13.1f} {run.few.wall / ours.few.wall:18.1f}"
        print(f"  {name:<24} {rows:11.1f} {start} {cache:>20}", flush=True)


def measured(command: list[str], cache: str) -> Cost:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | ENVIRONMENT_VARIABLES
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # that of an installed package is kept
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}\n{said[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, usage.ru_maxrss, sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file()))


def tiny_model(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "examples"))
    import tiny_models

    return Path(tiny_models.build("llava_next", folder))


def text_model(model: Path, folder: Path) -> Path:
    """The tokenizer and the template of a model, as a model of texts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokenizer.save_pretrained(str(folder))
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    for name in ("processor_class", "extra_special_tokens"):  # for images; in a form that LLaMA-Factory cannot read
        settings.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return folder


def draw_photo(path: Path, number: int, widths: tuple[int, int], heights: tuple[int, int]) -> None:
    """A JPEG as smooth as a photo, of a size within the bounds."""
    from PIL import Image, ImageFilter

    draw = random.Random(number)
    size = (draw.randint(*widths), draw.randint(*heights))
    small = Image.frombytes("RGB", (64, 48), draw.randbytes(64 * 48 * 3))
    small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2)).save(path, quality=90)


if __name__ == "__main__":
    sys.exit(main())

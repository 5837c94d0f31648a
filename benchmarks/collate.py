"""CPU time of a batch with images: TRL's own collator against ours, from originals and from packed images.

    python -m benchmarks.collate [--model FOLDER | --family llava] [--rows 8] [--repeats 5]

The rows have one photograph-like JPEG each. TRL's collator gets what a `datasets` column of images gives it, decoded
row by row, and, where there is a pixel budget, scaled to it by the same function as ours: both make the same batch,
which is checked. All are run by turns in one process on one thread, and the best of each counts. Prints ratios: times
alone say more about the machine.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from kto_data.cli import main as ktodata
from kto_data.image import PixelBudget, load_for_training
from kto_data.processor import Processor, load_processor
from kto_train import CachedCollator, load_cache

QUESTION = "What is in this picture? Describe it in one sentence."
ANSWER = "A wooden table with two apples, a glass of water and a folded newspaper."
CASES: tuple[tuple[tuple[int, int], int | None], ...] = (
    ((512, 512), None),
    ((1600, 1200), None),
    ((1600, 1200), 512 * 512),
)
"""Sizes of the originals (width, height), and the pixel budget."""

Collate = Callable[[], dict[str, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder with tokenizer and image processor")
    parser.add_argument("--family", default="llava", help="the tiny model made where --model is not given")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or made_model(options.family, Path(scratch) / "model")
        processor = load_processor(model)
        print(f"{type(processor.processing_class.image_processor).__name__}, {options.rows} rows a batch")
        for number, (size, budget) in enumerate(CASES):
            folder = Path(scratch) / str(number)
            measure(processor, folder, size, budget, options.rows, options.repeats)


def made_model(family: str, folder: Path) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import tiny_models

    return str(tiny_models.build(family, folder))


def measure(
    processor: Processor, folder: Path, size: tuple[int, int], budget: int | None, num_rows: int, repeats: int
) -> None:
    data = write_rows(folder, size, num_rows)
    ways: dict[str, Collate] = {"TRL's collator": stock(processor, data, budget)}
    for packing in ("none", "original", "resized"):
        if packing != "resized" or budget is not None:
            name = {
                "none": "cache, originals",
                "original": "cache, packed as they are",
                "resized": "cache, packed pixels",
            }
            ways[name[packing]] = ours(processor, data, budget, packing)
    expected = ways["TRL's collator"]()
    best = dict.fromkeys(ways, float("inf"))
    for way, collate in ways.items():
        batch = collate()
        assert all(torch.equal(batch[key], value) for key, value in expected.items()), f"{way}: another batch"
    for _ in range(repeats):
        for way, collate in ways.items():
            best[way] = min(best[way], cpu_seconds(collate))
    within = f", budget {budget:,} pixels" if budget else ""
    print(f"\n{size[0]}x{size[1]} JPEG{within}")
    base = best["TRL's collator"]
    for way, taken in best.items():
        print(f"  {way:<26} {taken / num_rows * 1000:7.1f} ms a sample   {base / taken:5.2f} x")


def cpu_seconds(collate: Collate) -> float:
    started = time.process_time()
    collate()
    return time.process_time() - started


def write_rows(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Records, each with a JPEG of its own, smooth with some grain."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True)
    data = folder / "data.jsonl"
    with data.open("w") as file:
        for number in range(count):
            small = Image.frombytes("RGB", (64, 48), draw.randbytes(64 * 48 * 3))
            photo = small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
            photo.save(folder / "images" / f"{number}.jpg", quality=90)
            messages = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
            row = {"messages": messages, "images": [f"images/{number}.jpg"], "label": number % 2 == 0, "id": number}
            file.write(json.dumps(row) + "\n")
    return data


def ours(processor: Processor, data: Path, budget: int | None, packing: str) -> Collate:
    output = data.parent / packing
    options = ["--pack-images", packing, "--jobs", "1", "--quiet"]
    if budget is not None:
        options += ["--image-max-pixels", str(budget)]
    with redirect_stdout(io.StringIO()):  # that the images are over the budget
        assert ktodata(["preprocess", str(data), "--model", processor.model, "--output", str(output), *options]) == 0
    cache = load_cache(output)
    collator = CachedCollator(processor, image_root=cache.image_root, pack_images=cache.pack_images)
    return lambda: collator(list(cache["train"]))


def stock(processor: Processor, data: Path, budget: int | None) -> Collate:
    collator = DataCollatorForVisionUnpairedPreference(processor.processing_class)
    lines = [json.loads(line) for line in data.read_bytes().splitlines()]
    contents = [(data.parent / line["images"][0]).read_bytes() for line in lines]

    def load(content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content)) as image:
            size = PixelBudget(max_pixels=budget).fit(*image.size)
        return load_for_training(io.BytesIO(content), size)

    def collate() -> dict[str, Any]:
        rows = [
            {
                "prompt": [{"role": "user", "content": QUESTION}],
                "completion": [{"role": "assistant", "content": ANSWER}],
                "label": line["label"],
                "images": [load(content)],
            }
            for line, content in zip(lines, contents, strict=True)
        ]
        return dict(collator(rows))

    return collate


if __name__ == "__main__":
    main()

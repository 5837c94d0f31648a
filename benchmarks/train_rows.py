"""Rows with images of mixed sizes and completions of mixed lengths: as records, and as TRL takes them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from benchmarks.shapes import Shape

QUESTION = "What is in this picture?"
WORDS = "the red blue green square circle triangle left right large small under above is a".split()


def write_records(folder: Path, shape: Shape, count: int) -> Path:
    """`count` records below `folder`, one image each; completions have lengths spread evenly on a log scale."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True)
    least, most = shape.words
    with (folder / "data.jsonl").open("w") as file:
        for number in range(count):
            width, height = draw.choice(shape.image_sides), draw.choice(shape.image_sides)
            name = f"images/{number}.png"
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name, compress_level=1)
            num_words = round(least * (most / least) ** draw.random())
            answer = " ".join(draw.choice(WORDS) for _ in range(num_words))
            messages = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages, "images": [name], "label": number % 2 == 0}) + "\n")
    return folder / "data.jsonl"


def stock_dataset(data: Path) -> datasets.Dataset:
    """The same records, in the same order, in TRL's own form."""
    rows = []
    for line in data.read_text().splitlines():
        record = json.loads(line)
        rows.append(
            {
                "prompt": [{"role": "user", "content": QUESTION}],
                "completion": record["messages"][1:],
                "label": record["label"],
                "images": [str(data.parent / name) for name in record["images"]],
            }
        )
    return datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))

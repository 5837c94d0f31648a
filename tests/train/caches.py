"""Caches of small drawn data, and the same rows as stock TRL wants them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from conftest import make_image, write_jsonl
from datasets import Dataset
from PIL import Image, ImageOps

from kto_data.cli import main
from kto_data.encode import Encoded, Encoder, ImageRef, Sample
from kto_data.errors import ExitCode
from kto_data.image import ImageCheck, PixelBudget, probe
from kto_data.manifest import MANIFEST_NAME, Manifest, Shard, Split, SplitCounts, fingerprint
from kto_data.processor import load_processor
from kto_data.record import Record
from kto_data.shard import CachedRow, write_dataset_files, write_shard

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "red",
    "green",
    "blue",
    "cat",
    "picture",
    "circle",
)
NO_BUDGET = PixelBudget()
SIZES = ((64, 48), (120, 40), (30, 90), (56, 56))


def sentence(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 9)))


def text_records(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": sentence(i)},
                {"role": "assistant", "content": sentence(1000 + i)},
            ],
            "images": [],
            "label": i % 3 != 0,
        }
        for i in range(first, first + count)
    ]


def image_records(root: Path, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows with one image, every fourth with two, every sixth with none."""
    records = text_records(count, first)
    for i, record in enumerate(records, start=first):
        num_images = 0 if i % 6 == 5 else 2 if i % 4 == 3 else 1
        names = [f"images/{i}-{k}.png" for k in range(num_images)]
        for k, name in enumerate(names):
            width, height = SIZES[(i + k) % len(SIZES)]
            if not (root / name).exists():  # another process may be reading it
                make_image(root / name, width, height, noise_seed=10 * i + k)
        record["images"] = names
        record["messages"][0]["content"] = "<image>" * num_images + record["messages"][0]["content"]
    return records


def make_cache(
    root: Path,
    model: Path,
    records: list[dict[str, Any]],
    eval_records: list[dict[str, Any]] | None = None,
    max_length: int | None = None,
    budget: PixelBudget = NO_BUDGET,
) -> Path:
    """The cache of `records` under `root`, with `root` as image root, made by the steps of `ktodata preprocess`."""
    output = root / "cache"
    processor = load_processor(model)
    encoder = Encoder(processor, max_length=max_length)
    splits: dict[str, Split] = {}
    for name, given in {"train": records, "eval": eval_records}.items():
        if given is not None:
            (output / name).mkdir(parents=True)
            rows = [
                _encode(encoder, record, root, budget, f"{name}.jsonl", i) for i, record in enumerate(given, start=1)
            ]
            splits[name] = _split(rows, write_shard(output / name, "data-00000.arrow", rows))
    parts = {**processor.fingerprint_parts(), "rows": len(records)}
    manifest = Manifest(
        fingerprint=fingerprint(parts),
        parts=parts,
        has_images=processor.has_images,
        image_root=str(root),
        image_min_pixels=budget.min_pixels,
        image_max_pixels=budget.max_pixels,
        max_length=max_length,
        inputs=(),
        splits=splits,
    )
    write_dataset_files(output, {name: ["data-00000.arrow"] for name in splits}, manifest.fingerprint)
    (output / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return output


def preprocess(root: Path, model: Path, records: list[dict[str, Any]], packing: str, *options: str) -> Path:
    """The cache of `records`, made by `ktodata preprocess` with `--pack-images`, in the folder of that name."""
    data, output = write_jsonl(root / "train.jsonl", records), root / packing
    given = ["--model", str(model), "--output", str(output), "--pack-images", packing, "--jobs", "1", "--quiet"]
    assert main(["preprocess", str(data), *given, *options]) == ExitCode.OK
    return output


def _encode(
    encoder: Encoder, value: dict[str, Any], root: Path, budget: PixelBudget, file: str, line: int
) -> CachedRow:
    record = Record.model_validate_json(json.dumps(value))
    images = []
    for path in record.images:
        header = probe(path, root.resolve(), ImageCheck.HEADER).header
        assert header is not None
        digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
        images.append(ImageRef(path, digest, *budget.fit(header.width, header.height), num_tokens=0))
    (encoded,) = encoder.encode([Sample(record, tuple(images))])
    assert isinstance(encoded, Encoded), encoded
    return CachedRow(encoded, record.label, file, line, None)


def _split(rows: list[CachedRow], shard: Shard) -> Split:
    labels = {str(label).lower(): sum(row.label is label for row in rows) for label in (True, False)}
    return Split(
        shards=(shard,),
        counts=SplitCounts(
            read=len(rows),
            kept=len(rows),
            dropped={},
            read_by_label=labels,
            kept_by_label=labels,
            dropped_by_label={},
            truncated_by_label={},
        ),
        num_tokens=sum(row.encoded.num_tokens for row in rows),
        num_image_tokens=sum(row.encoded.num_image_tokens for row in rows),
        num_completion_tokens=sum(len(row.encoded.completion_ids) for row in rows),
        num_images=sum(len(row.encoded.images) for row in rows),
        max_num_tokens=max(row.encoded.num_tokens for row in rows),
    )


def stock_rows(records: list[dict[str, Any]], root: Path | None, budget: PixelBudget = NO_BUDGET) -> Dataset:
    """The records as stock `KTOTrainer` takes them; with images, upright and scaled, where `root` is given."""
    rows = []
    for record in records:
        *prompt, completion = record["messages"]
        row = {"prompt": prompt, "completion": [completion], "label": record["label"]}
        if root is not None:
            # Stock TRL puts images at the front of the first user message.
            row["prompt"] = [{**m, "content": m["content"].replace("<image>", "")} for m in prompt]
            images = [ImageOps.exif_transpose(Image.open(root / name)).convert("RGB") for name in record["images"]]
            row["images"] = [image.resize(budget.fit(*image.size), Image.Resampling.BICUBIC) for image in images]
        rows.append(row)
    return Dataset.from_list(rows)

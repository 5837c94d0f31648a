"""Whether the ids of a cache are TRL's, row by row, on data and a model of one's own.

    python -m benchmarks.same_ids DATA.jsonl --model DIR [--rows N]

The cache is made by `ktodata preprocess`, the other ids by TRL's own vision collator, which decodes every image. `DATA`
has records in canonical spelling, and `DIR` is a model with a processor of images. The exit code is 1 where a row
differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from PIL import Image, ImageOps
from transformers import AutoProcessor
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from kto_data.cli import main as ktodata


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="the first ones alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = str(Path(scratch, "cache"))
        command = [
            "preprocess",
            str(options.data),
            "--model",
            str(options.model),
            "--output",
            cache,
            "--invalid",
            "drop",
        ]
        if ktodata([*command, "--quiet"]):
            return 2
        rows = load_from_disk(cache)["train"]
        if options.rows:
            rows = rows.select(range(min(options.rows, len(rows))))
        records = options.data.read_bytes().split(b"\n")
        differ = [row["source"]["line"] for row, ids in _both(rows, records, options) if _ids(row) != ids]
    print(f"{len(rows):,} rows, {len(differ):,} with other ids than TRL's", *(f"line {line}" for line in differ))
    return bool(differ)


def _both(rows: Any, records: list[bytes], options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Each row of the cache, and the ids that TRL makes of its record."""
    collate = DataCollatorForVisionUnpairedPreference(AutoProcessor.from_pretrained(options.model), calculate_kl=False)
    for row in rows:
        record = json.loads(records[row["source"]["line"] - 1])
        messages = [{"role": m["role"], "content": _parts(m["content"])} for m in record["messages"]]
        images = []
        for path in record.get("images", ()):
            with Image.open(options.data.parent / path) as image:
                images.append(ImageOps.exif_transpose(image).convert("RGB"))
        example = {"prompt": messages[:-1], "completion": messages[-1:], "label": record["label"], "images": images}
        batch = collate([example])
        yield row, batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()


def _ids(row: dict[str, Any]) -> list[int]:
    return [*row["prompt_ids"], *row["completion_ids"]]


def _parts(content: str) -> list[dict[str, str]]:
    """A message's text, taken apart at its placeholders."""
    first, *others = content.split("<image>")
    parts = [{"type": "text", "text": first}]
    for text in others:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]


if __name__ == "__main__":
    sys.exit(main())

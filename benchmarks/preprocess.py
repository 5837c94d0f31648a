"""CPU time of an image row: ids from headers against the model's own processor, in one run.

    python -m benchmarks.preprocess [--model DIR] [--images DIR] [--rows N]

Without --model a tiny random model is made; its processor does the same work a row as a large one's. Without --images
photograph-like JPEGs of 1 to 2 megapixels are drawn, each of its own size. Prints ratios: absolute times depend on the
machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

from kto_data.encode import Encoded, Encoder, ImageRef, Sample
from kto_data.image import ImageCheck, probe
from kto_data.processor import Processor, load_processor
from kto_data.record import Record

QUESTION = "What is in this picture? Describe it in one sentence."
ANSWER = "A wooden table with two apples, a glass of water and a folded newspaper."


def draw_photos(folder: Path, num: int) -> list[Path]:
    """JPEGs of 1 to 2 megapixels, smooth with some grain, no two of one size."""
    draw = random.Random(0)
    paths = []
    for number in range(num):
        width = draw.randrange(1000, 1700)
        height = draw.randrange(1_000_000, 2_000_000) // width
        small = Image.frombytes("RGB", (64, 48), draw.randbytes(64 * 48 * 3))
        photo = small.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
        path = folder / f"{number:04d}.jpg"
        photo.save(path, quality=90)
        paths.append(path)
    return paths


def record_of(path: Path) -> Record:
    messages = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
    return Record.model_validate({"messages": messages, "images": [path.name], "label": True}, strict=False)


def ids_from_headers(processor: Processor, paths: list[Path]) -> list[list[int]]:
    """What `ktodata preprocess` does for each row, hashing of the file left out on neither side."""
    root = paths[0].parent.resolve()
    samples = []
    for path in paths:
        header = probe(path.name, root, ImageCheck.HEADER).header
        assert header is not None
        samples.append(Sample(record_of(path), (ImageRef(path.name, "", header.width, header.height, 0),)))
    answers = Encoder(processor).encode(samples)
    return [a.prompt_ids + a.completion_ids for a in answers if isinstance(a, Encoded)]


def ids_from_pixels(processor: Processor, paths: list[Path]) -> list[list[int]]:
    """What a collator does for each row: decode, run the processor, take the ids."""
    ids = []
    for path in paths:
        prompt_text, completion_text = processor.render(record_of(path)).split()
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        prompt = processor.processing_class(images=[[upright]], text=[prompt_text], add_special_tokens=False)
        ids.append(prompt["input_ids"][0] + processor.tokenize([completion_text])[0])
    return ids


def cpu_seconds(
    work: Callable[[Processor, list[Path]], list[list[int]]], model: str, paths: list[Path]
) -> tuple[float, list[list[int]]]:
    processor = load_processor(model)
    started = time.process_time()
    ids = work(processor, paths)
    return time.process_time() - started, ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder with tokenizer and image processor")
    parser.add_argument("--family", default="llava_next", help="the tiny model made where --model is not given")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs")
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if model is None:
            sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
            import tiny_models

            model = str(tiny_models.build(options.family, Path(scratch) / "model"))
        paths = sorted(options.images.glob("*.jpg")) if options.images else draw_photos(Path(scratch), options.rows)
        pixels, expected = cpu_seconds(ids_from_pixels, model, paths)
        headers, ids = cpu_seconds(ids_from_headers, model, paths)
    assert ids == expected, "the ids differ"
    megapixels = "1 to 2 megapixel images" if not options.images else f"images of {options.images}"
    print(f"{len(paths)} rows, {megapixels}, ids identical")
    print(f"CPU a row, the model's processor over ids from headers: {pixels / headers:.0f}x  (target: at least 10x)")
    return 0 if pixels >= 10 * headers else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long `ktodata validate` takes over distinct images in header mode, against a bare loop of `imagesize.get`.

    python -m benchmarks.images [--images 100000] [--jobs 1,2] [--repeats 3]

Both are whole processes over the same files, start-up included, run by turns; the best of each counts, in wall
and in processor time. The images are made by the script: JPEG of several sizes, some turned by EXIF, some with a colour
profile, and PNG. `imagesize` is
installed apart (`pip install --target`), since ktodata does not need it: it reads neither modes nor end markers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.validate import measure

BARE = """
import sys
sys.path.insert(0, sys.argv[2])
import imagesize
with open(sys.argv[1]) as names:
    for name in names:
        imagesize.get(name[:-1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "peer")]
        subprocess.run([*pip, "imagesize"], check=True)
        data, names = write_data(folder, options.images)
        print(f"{options.images:,} images, Python {platform.python_version()}, {os.cpu_count()} processors")
        jobs = [int(number) for number in options.jobs.split(",")]
        measure(make_commands(data, names, folder / "peer", jobs), options.repeats)


def make_commands(data: Path, names: Path, peer: Path, jobs: list[int]) -> dict[str, list[str]]:
    commands = {"imagesize.get loop": [sys.executable, "-c", BARE, str(names), str(peer)]}
    for number in jobs:
        validate = [sys.executable, "-m", "kto_data", "validate", str(data), "--jobs", str(number), "-q", "--exit-zero"]
        commands[f"ktodata validate --jobs {number}"] = validate
    return commands


def write_data(folder: Path, count: int) -> tuple[Path, Path]:
    """A file of records with one image each, and one of the images' names; every image is a file of its own."""
    rng = random.Random(0)
    kinds = [made_image(rng, number) for number in range(40)]
    data, names = folder / "data.jsonl", folder / "names.txt"
    with data.open("w") as records, names.open("w") as listed:
        for number in range(count):
            content, suffix = kinds[number % len(kinds)]
            name = f"images/{number // 5000:03}/{number:07}.{suffix}"
            path = folder / name
            if number % 5000 == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(content)
            listed.write(f"{path}\n")
            turns = [("user", f"<image>What is in picture {number}?"), ("assistant", f"Noise, as in all {number}.")]
            messages = [{"role": role, "content": text} for role, text in turns]
            record = {"messages": messages, "label": rng.random() < 0.5, "images": [name]}
            records.write(json.dumps(record) + "\n")
    return data, names


def made_image(rng: random.Random, number: int) -> tuple[bytes, str]:
    width, height = rng.choice(((160, 120), (120, 160), (200, 100)))
    image = Image.effect_noise((width, height), 40).convert("RGB")
    buffer = io.BytesIO()
    if number % 4 == 3:
        image.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    options: dict[str, bytes] = {}
    if number % 4 == 1:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 3, 6, 8))
        options["exif"] = exif.tobytes()
    if number % 8 == 2:
        options["icc_profile"] = rng.randbytes(3000)
    image.save(buffer, "JPEG", quality=60, **options)
    return buffer.getvalue(), "jpg"


if __name__ == "__main__":
    main()

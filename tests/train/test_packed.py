"""A cache whose images are packed gives the batches of one whose images are not, and needs nothing but itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, preprocess
from conftest import TinyModel, make_image
from PIL import Image
from test_collate import assert_same_batch
from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

from kto_data.errors import CacheError, InputError
from kto_data.image import load_for_training
from kto_data.processor import load_processor
from kto_train import CachedCollator, load_cache
from kto_train.dataset import Cache

MAX_PIXELS = 3000
KINDS = ("none", "original", "resized")


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows with no image, one and two; some over the budget, one of them turned, one transparent, one grey."""
    records = image_records(tmp_path, 6)
    make_image(tmp_path / "images/0-0.jpg", 150, 90, noise_seed=20, orientation=6)
    make_image(tmp_path / "images/1-0.png", 100, 80, mode="RGBA", color=(200, 30, 60, 128))
    make_image(tmp_path / "images/2-0.png", 100, 80, mode="L", noise_seed=21)
    records[0]["images"] = ["images/0-0.jpg"]
    return records


def make(kind: str, family: str, records: list[dict[str, Any]], root: Path, tiny_model: TinyModel) -> Cache:
    budget = ("--image-max-pixels", str(MAX_PIXELS))
    return load_cache(preprocess(root, tiny_model(family), records, kind, *budget))


def collate(cache: Cache, family: str, tiny_model: TinyModel) -> dict[str, torch.Tensor]:
    processor = load_processor(str(tiny_model(family)))
    collator = CachedCollator(processor, image_root=cache.image_root, pack_images=cache.pack_images)
    return collator(list(cache["train"]))


def stock_batch(cache: Cache, family: str, records: list[dict[str, Any]], root: Path, tiny_model: TinyModel) -> Any:
    """What TRL's own collator makes of the records, their images brought to the budget beforehand."""
    rows = []
    for record, row in zip(records, cache["train"], strict=True):
        *prompt, completion = record["messages"]
        # Stock TRL puts images at the front of the first user message.
        prompt = [{**message, "content": message["content"].replace("<image>", "")} for message in prompt]
        images = [load_for_training(root / ref["path"], (ref["width"], ref["height"])) for ref in row["image_refs"]]
        rows.append({"prompt": prompt, "completion": [completion], "label": record["label"], "images": images})
    return DataCollatorForVisionUnpairedPreference(load_processor(str(tiny_model(family))).processing_class)(rows)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "idefics3"])
def test_packed_and_unpacked_caches_give_trls_batch(
    family: str, records: list[dict[str, Any]], tiny_model: TinyModel, tmp_path: Path
) -> None:
    caches = {kind: make(kind, family, records, tmp_path, tiny_model) for kind in KINDS}
    expected = stock_batch(caches["none"], family, records, tmp_path, tiny_model)
    assert_same_batch(collate(caches["none"], family, tiny_model), expected)
    shutil.rmtree(tmp_path / "images")
    assert_same_batch(collate(caches["original"], family, tiny_model), expected)
    assert_same_batch(collate(caches["resized"], family, tiny_model), expected)


def test_a_packed_cache_moves_alone_and_an_unpacked_one_with_its_images(
    records: list[dict[str, Any]], tiny_model: TinyModel, tmp_path: Path
) -> None:
    made = {kind: make(kind, "llava", records, tmp_path, tiny_model) for kind in KINDS}
    expected = collate(made["none"], "llava", tiny_model)
    there = tmp_path / "another machine"
    for kind in KINDS:
        shutil.move(tmp_path / kind, there / "caches" / kind)
    shutil.move(tmp_path / "images", there / "photos" / "images")
    for kind in ("original", "resized"):
        assert_same_batch(collate(load_cache(there / "caches" / kind), "llava", tiny_model), expected)
    for kind in KINDS:  # the originals can be named for any of them
        moved = load_cache(there / "caches" / kind, there / "photos")
        assert_same_batch(collate(moved, "llava", tiny_model), expected)


@pytest.mark.parametrize("kind", ["original", "resized"])
def test_a_packed_file_that_is_missing_or_altered_is_told_with_its_row(
    kind: str, records: list[dict[str, Any]], tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make(kind, "llava", records, tmp_path, tiny_model)
    ref = cache["train"][1]["image_refs"][0]
    (packed,) = cache.image_root.glob(f"*/{ref['sha256']}*")
    content = packed.read_bytes()
    named = rf"train\.jsonl:2: the image .*{packed.name}"
    for altered in (content[:-1], content[:-20] + bytes([content[-20] ^ 1]) + content[-19:], b""):
        packed.write_bytes(altered)
        with pytest.raises(InputError, match=f"{named} cannot be read"):
            collate(cache, "llava", tiny_model)
    packed.unlink()
    with pytest.raises(InputError, match=f"{named} is not there"):
        collate(cache, "llava", tiny_model)
    shutil.rmtree(cache.image_root)
    with pytest.raises(CacheError, match="has lost the images that were packed in it"):
        load_cache(cache.path)


def test_an_original_that_was_replaced_is_not_trained_on(
    records: list[dict[str, Any]], tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make("none", "llava", records, tmp_path, tiny_model)
    make_image(tmp_path / "images/2-0.png", 100, 80, mode="L", noise_seed=22)
    with pytest.raises(InputError, match=r"train\.jsonl:3: .*2-0\.png cannot be read: it is not the file that the"):
        collate(cache, "llava", tiny_model)


def test_a_packed_file_is_a_picture_that_any_viewer_opens(
    records: list[dict[str, Any]], tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make("resized", "llava", records, tmp_path, tiny_model)
    for ref in cache["train"][0]["image_refs"]:
        (packed,) = cache.image_root.glob(f"*/{ref['sha256']}*")
        with Image.open(packed) as image:
            assert (image.format, image.size) == ("PPM", (ref["width"], ref["height"]))

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import tiny_models
import torch
from caches import image_records, make_cache, stock_rows
from conftest import TinyModel, make_image
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, DataCollatorForVisionUnpairedPreference

from kto_data.errors import CacheError, InputError
from kto_data.image import PixelBudget
from kto_data.processor import load_processor
from kto_train import CachedCollator, load_cache

TEXT_ROWS = [
    {"prompt_ids": [5, 6, 7], "completion_ids": [8, 9], "label": True},
    {"prompt_ids": [5, 6], "completion_ids": [10, 11, 12, 13], "label": False},
    {"prompt_ids": [7], "completion_ids": [14], "label": True},
]


def assert_same_batch(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("family", tiny_models.IMAGE_FAMILIES)
def test_the_batch_is_that_of_trls_vision_collator(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    processor = load_processor(str(tiny_model(family)))
    records = image_records(tmp_path, 6)
    cache = load_cache(make_cache(tmp_path, tiny_model(family), records))
    rows = list(cache["train"])
    found = CachedCollator(processor, image_root=cache.image_root)(rows)
    stock = DataCollatorForVisionUnpairedPreference(processor.processing_class)
    assert_same_batch(found, dict(stock(list(stock_rows(records, tmp_path)))))


@pytest.mark.parametrize("family", tiny_models.IMAGE_FAMILIES)
def test_under_a_pixel_budget_the_batch_is_that_of_images_scaled_by_hand(
    family: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    records = image_records(tmp_path, 4)
    make_image(tmp_path / "images/0-0.png", 150, 20, orientation=6, noise_seed=1)
    make_image(tmp_path / "images/1-0.png", 7, 5, noise_seed=2)
    make_image(tmp_path / "images/2-0.png", 130, 110, noise_seed=3)
    budget = PixelBudget(min_pixels=900, max_pixels=2500)
    cache = load_cache(make_cache(tmp_path, tiny_model(family), records, budget=budget))
    processor = load_processor(str(tiny_model(family)))
    found = CachedCollator(processor, image_root=cache.image_root)(list(cache["train"]))
    stock = DataCollatorForVisionUnpairedPreference(processor.processing_class)
    assert_same_batch(found, dict(stock(list(stock_rows(records, tmp_path, budget)))))


def test_a_text_batch_is_that_of_trls_collator(tiny_model: TinyModel) -> None:
    processor = load_processor(str(tiny_model("text")))
    partners = [row["completion_ids"] for row in (TEXT_ROWS[-1], *TEXT_ROWS[:-1])]
    rows = [{**row, "KL_completion_ids": ids} for row, ids in zip(TEXT_ROWS, partners, strict=True)]
    stock = DataCollatorForUnpairedPreference(pad_token_id=processor.tokenizer.pad_token_id)
    found = CachedCollator(processor, image_root=Path())(TEXT_ROWS)
    assert_same_batch(found, stock(rows))


def test_the_rows_are_left_as_they_are(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 4)))
    collate = CachedCollator(load_processor(str(tiny_model("llava"))), image_root=cache.image_root)
    rows = list(cache["train"])
    before = copy.deepcopy(rows)
    first, second = collate(rows), collate(rows)
    assert rows == before
    assert_same_batch(first, second)


def test_a_kl_sequence_over_max_length_loses_the_tail_of_the_partners_completion(tiny_model: TinyModel) -> None:
    processor = load_processor(str(tiny_model("text")))
    batch = CachedCollator(processor, image_root=Path(), max_length=6)(TEXT_ROWS[:2])
    pad = processor.tokenizer.pad_token_id
    assert batch["KL_input_ids"].tolist() == [[5, 6, 7, 10, 11, 12], [5, 6, 8, 9, pad, pad]]
    assert batch["KL_completion_mask"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]
    assert batch["input_ids"].shape == (2, 6)


def test_a_loss_without_kl_gets_no_kl_sequences(tiny_model: TinyModel) -> None:
    processor = load_processor(str(tiny_model("text")))
    batch = CachedCollator(processor, image_root=Path(), with_kl=False)(TEXT_ROWS)
    assert sorted(batch) == ["attention_mask", "completion_mask", "input_ids", "label"]


def test_sequences_are_padded_to_a_multiple(tiny_model: TinyModel) -> None:
    processor = load_processor(str(tiny_model("text")))
    batch = CachedCollator(processor, image_root=Path(), pad_to_multiple_of=8)(TEXT_ROWS)
    assert {tuple(batch[key].shape) for key in batch if key != "label"} == {(3, 8)}


def test_stored_reference_values_go_into_the_batch(tiny_model: TinyModel) -> None:
    rows = [{**row, "ref_logps": -float(i), "ref_KL_logps": float(i)} for i, row in enumerate(TEXT_ROWS)]
    batch = CachedCollator(load_processor(str(tiny_model("text"))), image_root=Path())(rows)
    assert batch["ref_logps"].tolist() == [0.0, -1.0, -2.0]
    assert batch["ref_KL_logps"].tolist() == [0.0, 1.0, 2.0]


def test_a_batch_without_images_has_no_image_keys(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 6)))
    collate = CachedCollator(load_processor(str(tiny_model("llava"))), image_root=cache.image_root)
    assert "pixel_values" not in collate([cache["train"][5]])


def test_a_missing_image_is_told_with_its_row_and_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 2)))
    collate = CachedCollator(load_processor(str(tiny_model("llava"))), image_root=cache.image_root)
    (tmp_path / "images/1-0.png").unlink()
    with pytest.raises(InputError) as raised:
        collate(list(cache["train"]))
    assert raised.value.what == f"train.jsonl:2: the image {tmp_path}/images/1-0.png is not there"


def test_a_damaged_image_is_told_with_its_row_and_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 2)))
    collate = CachedCollator(load_processor(str(tiny_model("llava"))), image_root=cache.image_root)
    (tmp_path / "images/0-0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"train\.jsonl:1: the image .*0-0\.png cannot be read: it is not the file"):
        collate(list(cache["train"]))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama4"])
def test_other_token_counts_than_the_caches_are_told_with_row_and_image(
    family: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model(family), image_records(tmp_path, 2)))
    collate = CachedCollator(load_processor(str(tiny_model(family))), image_root=cache.image_root)
    rows = list(cache["train"])
    rows[1]["image_refs"][0]["width"] *= 2
    with pytest.raises(CacheError, match=r"^train\.jsonl:2: images/1-0\.png: \d+ image tokens now, and \d+ in the"):
        collate(rows)


def test_an_image_is_brought_to_the_size_in_the_cache(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("qwen2_5_vl"), image_records(tmp_path, 1)))
    collate = CachedCollator(load_processor(str(tiny_model("qwen2_5_vl"))), image_root=cache.image_root)
    before = collate([cache["train"][0]])
    larger = make_image(tmp_path / "images/0-0.png", 128, 96, noise_seed=1)
    row = cache["train"][0]
    row["image_refs"][0]["sha256"] = hashlib.sha256(larger.read_bytes()).hexdigest()
    after = collate([row])
    assert torch.equal(before["image_grid_thw"], after["image_grid_thw"])

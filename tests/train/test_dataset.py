from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from caches import image_records, make_cache, text_records
from conftest import TinyModel

from kto_data.errors import CacheError, InputError
from kto_data.manifest import MANIFEST_NAME
from kto_train import load_cache
from kto_train.dataset import read_rows


def test_the_splits_of_a_cache_are_loaded_and_no_column_is_called_images(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 4), text_records(3))
    cache = load_cache(path)
    assert {name: len(split) for name, split in cache.items()} == {"train": 4, "eval": 3}
    assert cache["train"].column_names == [
        "prompt_ids",
        "completion_ids",
        "label",
        "image_refs",
        "num_tokens",
        "num_image_tokens",
        "source",
        "id",
    ]
    assert cache.image_root == tmp_path


def test_the_image_root_can_be_given_anew(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 2))
    assert load_cache(path, tmp_path / "images").image_root == tmp_path / "images"
    with pytest.raises(InputError, match="elsewhere is not a folder"):
        load_cache(path, tmp_path / "elsewhere")


def test_a_cache_of_text_needs_no_image_root(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = make_cache(tmp_path, tiny_model("text"), text_records(2))
    assert len(load_cache(path, tmp_path / "elsewhere")["train"]) == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda cache: (cache / MANIFEST_NAME).unlink(), "is not a cache"),
        (lambda cache: (cache / "train" / "data-00000.arrow").unlink(), "cannot be opened"),
        (lambda cache: (cache / "dataset_dict.json").unlink(), "cannot be opened"),
        (lambda cache: shutil.copytree(cache / "train", cache / "eval", dirs_exist_ok=True), "in the split|rows, its"),
    ],
    ids=["manifest", "shard", "splits", "other rows"],
)
def test_a_damaged_cache_is_refused(damage, told: str, tiny_model: TinyModel, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = make_cache(tmp_path, tiny_model("text"), text_records(4), text_records(3))
    damage(path)
    with pytest.raises(CacheError, match=told):
        load_cache(path)


def test_rows_are_read_with_lengths_labels_and_equal_keys_for_equal_completions(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    records = text_records(5)
    records[3]["messages"][1] = records[1]["messages"][1]
    dataset = load_cache(make_cache(tmp_path, tiny_model("text"), records))["train"]
    rows = read_rows(dataset)
    assert rows.label.tolist() == [record["label"] for record in records]
    assert rows.prompt_length.tolist() == [len(ids) for ids in dataset["prompt_ids"]]
    assert rows.completion_length.tolist() == [len(ids) for ids in dataset["completion_ids"]]
    assert len(set(rows.completion_key.tolist())) == 4
    assert rows.completion_key[3] == rows.completion_key[1]

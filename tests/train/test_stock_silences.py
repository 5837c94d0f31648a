"""What stock TRL (1.16) does without a word, each beside what is done here instead."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, stock_rows, text_records
from conftest import TinyModel, write_jsonl
from test_loss_equality import make_args
from trl import KTOTrainer

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow

Records = list[dict[str, Any]]


def stock_trainer(
    model: Path, folder: Path, records: Records, *, images: bool, eval_records: Records | None = None, **settings: Any
) -> KTOTrainer:
    root = folder if images else None
    return KTOTrainer(
        str(model),
        args=make_args(folder / "stock", **settings),
        train_dataset=stock_rows(records, root),
        eval_dataset=stock_rows(eval_records, root) if eval_records else None,
        processing_class=load_processor(str(model)).processing_class,
    )


def cached_trainer(
    model: Path, folder: Path, records: Records, *, eval_records: Records | None = None, **settings: Any
) -> CachedKTOTrainer:
    cache = load_cache(make_cache(folder, model, records, eval_records))
    return CachedKTOTrainer(str(model), cache=cache, args=make_args(folder / "cached", **settings))


def own_completions_for_kl(trainer: KTOTrainer, split: str) -> int:
    """Rows of an epoch whose KL sequence is their own."""
    loader = trainer.get_train_dataloader() if split == "train" else trainer.get_eval_dataloader()
    found = 0
    for batch in loader:
        for mine, partner in zip(batch["input_ids"], batch["KL_input_ids"], strict=True):
            width = max(len(mine), len(partner))
            mine, partner = (torch.nn.functional.pad(ids, (0, width - len(ids)), value=0) for ids in (mine, partner))
            found += bool(torch.equal(mine, partner))
    return found


def test_a_last_batch_of_one_measures_kl_on_its_own_answer(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, records = tiny_model("llava"), image_records(tmp_path, 5)
    settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 4}
    stock = stock_trainer(model, tmp_path, records, images=True, eval_records=records, **settings)
    cached = cached_trainer(model, tmp_path, records, eval_records=records, **settings)
    for split in ("train", "eval"):
        assert own_completions_for_kl(stock, split) == 1
        assert own_completions_for_kl(cached, split) == 0


def test_repeated_short_answers_are_paired_with_themselves(tiny_model: TinyModel, tmp_path: Path) -> None:
    records = text_records(8)
    for i, record in enumerate(records):
        record["messages"][1]["content"] = "yes" if i < 4 else "no"
    assert own_completions_for_kl(stock_trainer(tiny_model("text"), tmp_path, records, images=False), "train") == 8
    cached = cached_trainer(tiny_model("text"), tmp_path, records)
    assert own_completions_for_kl(cached, "train") == cached.train_groups.num_self_pairs == 0


def test_rows_with_images_keep_their_order_in_every_epoch(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, records = tiny_model("llava"), image_records(tmp_path, 12)
    trainers = [
        stock_trainer(model, tmp_path, records, images=True),
        cached_trainer(model, tmp_path, records, per_device_train_batch_size=2),
    ]
    is_same = []
    for trainer in trainers:
        loader = trainer.get_train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            if isinstance(trainer, CachedKTOTrainer):
                trainer.set_epoch(epoch)
            epochs.append([batch["input_ids"].tolist() for batch in loader])
        is_same.append(epochs[0] == epochs[1])
        assert sorted(map(str, epochs[0])) == sorted(map(str, epochs[1]))
    assert is_same == [True, False]


def test_labels_out_of_balance_are_said_for_text_alone(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{**record, "label": i != 0} for i, record in enumerate(image_records(tmp_path, 8))]
    stock_trainer(tiny_model("llava"), tmp_path, records, images=True)
    assert [record for record in caplog.records if "desirable" in record.getMessage()] == []
    cached_trainer(tiny_model("llava"), tmp_path, records)
    (told,) = [record for record in caplog.records if "desirable" in record.getMessage()]
    assert told.levelno == logging.WARNING
    assert told.getMessage().startswith("label balance b = 8.75 is outside [1, 4/3]")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_a_placeholder_in_the_text_stays_text_and_the_image_moves_to_the_front(
    family: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    records = image_records(tmp_path, 2)
    for record in records:
        record["messages"][0]["content"] = "before <image> after"
    processor = load_processor(str(tiny_model(family)))

    def prompt(ids: Any) -> str:
        text = processor.processing_class.decode(ids).replace(processor.image_token, "#")
        return text[: text.index("after") + len("after")]

    rows = stock_rows(records, tmp_path).remove_columns("prompt")
    rows = rows.add_column("prompt", [record["messages"][:1] for record in records])
    stock = KTOTrainer(
        str(tiny_model(family)),
        args=make_args(tmp_path / "stock"),
        train_dataset=rows,
        processing_class=processor.processing_class,
    )
    (batch,) = stock.get_train_dataloader()
    said = prompt(batch["input_ids"][0])
    assert said.index("#") < said.index("before <image> after")
    cache = load_cache(make_cache(tmp_path, tiny_model(family), records))
    said = prompt(cache["train"][0]["prompt_ids"])
    assert said.index("before") < said.index("#") < said.index("after")
    assert "<image>" not in said


def test_a_prompt_that_fills_max_length_trains_nothing(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Stock: loss 0.5 and gradient 0. Here the rows never reach a training: they are dropped, and kept as rejects."""
    records = image_records(tmp_path, 6)
    for record in records[:4]:
        record["messages"][0]["content"] += " and so on" * 100
    settings = {"max_length": 256, "max_steps": 1, "desirable_weight": 1.0}
    stock = stock_trainer(tiny_model("llava"), tmp_path, records[:4], images=True, **settings)
    stock.train()
    assert stock.state.log_history[0]["loss"] == 0.5
    assert stock.state.log_history[0]["grad_norm"] == 0.0
    data, cache = write_jsonl(tmp_path / "data.jsonl", records), tmp_path / "made"
    options = ["--model", str(tiny_model("llava")), "--output", str(cache), "--jobs", "1"]
    limit = ["--max-length", "256", "--too-long", "drop"]
    assert main(["preprocess", str(data), *options, *limit]) in (ExitCode.OK, ExitCode.FINDINGS)
    counts = json.loads((cache / "manifest.json").read_text())["splits"]["train"]["counts"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (6, 2, {"KTO502": 4})
    assert len((cache / "rejects.jsonl").read_text().splitlines()) == 4

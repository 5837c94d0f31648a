from __future__ import annotations

import gc
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from peft import LoraConfig
from test_loss_equality import make_args
from transformers import AutoModelForCausalLM

from kto_train import CachedKTOTrainer, load_cache, reference_pass
from kto_train.reference import ReferenceStore, weights_hash


def make_trainer(model: Path, cache: Path, folder: Path, **settings: object) -> CachedKTOTrainer:
    lora, given = settings.pop("lora", None), settings.pop("ref_model", None)
    args = make_args(folder, **{"precompute_ref_log_probs": True, **settings})
    return CachedKTOTrainer(str(model), cache=load_cache(cache), args=args, peft_config=lora, ref_model=given)


@pytest.fixture
def text_cache(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return make_cache(tmp_path, tiny_model("text"), text_records(12), text_records(5, first=100))


def computed(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if "reference log-probabilities" in record.getMessage()]
    caplog.clear()
    told = [message.partition(": ")[2].partition(" /")[0] for message in found]
    return [message for message in told if not message.startswith("computed in")]


def test_values_are_computed_once_and_reused_and_told_stale_by_name(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kto_train")
    make_trainer(tiny_model("text"), text_cache, tmp_path / "1")
    assert computed(caplog) == ["computing 12 rows"]
    first = make_trainer(tiny_model("text"), text_cache, tmp_path / "2", beta=0.5, learning_rate=1e-6)
    assert computed(caplog) == ["reused from"]
    assert first.ref_model is None
    make_trainer(tiny_model("text"), text_cache, tmp_path / "3", seed=7)
    assert computed(caplog) == ["computing 12 rows (those stored are of other seed)"]
    make_trainer(tiny_model("text"), text_cache, tmp_path / "4", per_device_train_batch_size=2)
    assert computed(caplog) == ["computing 12 rows (those stored are of other batch size)"]


def test_how_far_the_computation_is_is_said(
    text_cache: Path,
    tiny_model: TinyModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference_pass, "TELL_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "kto_train")
    make_trainer(tiny_model("text"), text_cache, tmp_path / "1")
    said = [record.getMessage() for record in caplog.records if "of 12 rows" in record.getMessage()]
    told = r"reference log-probabilities of train: {} of 12 rows, \d+\.\d rows/s, \d:\d\d:\d\d left"
    assert len(said) == 3
    assert all(re.fullmatch(told.format(done), line) for done, line in zip((4, 8, 12), said, strict=True))


def test_the_values_are_those_of_the_rows_in_any_batch(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model("text"), text_cache, tmp_path / "1")
    stored = torch.tensor(trainer.train_dataset["ref_logps"])
    for row in range(0, 12, 5):
        batch = trainer.data_collator([trainer.train_dataset[row], trainer.train_dataset[0]])
        own, _ = trainer.compute_ref_log_probs(trainer.model, batch)
        assert float(own[0]) == pytest.approx(float(stored[row]), abs=1e-4)


def test_a_reference_model_that_is_given_is_the_one_that_is_asked_and_known_again(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kto_train")
    own = make_trainer(tiny_model("text"), text_cache, tmp_path / "1").train_dataset["ref_logps"][:]
    assert computed(caplog) == ["computing 12 rows"]
    other = AutoModelForCausalLM.from_pretrained(tiny_model("text"))
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    for told in ("computing 12 rows (those stored are of other weights)", "reused from"):
        given = make_trainer(tiny_model("text"), text_cache, tmp_path / "2", ref_model=other)
        assert computed(caplog) == [told]
        found = given.train_dataset["ref_logps"][:]
        assert found != own
    batch = given.data_collator([given.train_dataset[row] for row in range(2)])
    asked, _ = given.compute_ref_log_probs(other, batch)
    assert asked.tolist() == pytest.approx(found[:2], abs=1e-4)


def test_the_eval_split_has_its_own_values(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_model("text"), text_cache, tmp_path / "1", eval_strategy="epoch", per_device_eval_batch_size=2
    )
    assert len(trainer.eval_dataset["ref_KL_logps"]) == 5
    assert [len(batch["label"]) for batch in trainer.get_eval_dataloader()] == [3, 2]
    trainer.train()
    assert "eval_loss" in trainer.state.log_history[-2]


def test_a_loss_without_kl_takes_batches_of_one(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = {"loss_type": "apo_zero_unpaired", "per_device_train_batch_size": 1, "max_steps": 2}
    trainer = make_trainer(tiny_model("text"), text_cache, tmp_path / "1", **settings)
    assert "ref_KL_logps" not in trainer.train_dataset.column_names
    trainer.train()
    assert trainer.state.global_step == 2


def weight_bytes() -> int:
    """Of all tensors that are alive."""
    gc.collect()
    alive = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    storages = {found.untyped_storage().data_ptr(): found.untyped_storage().nbytes() for found in alive}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("settings", "models"),
    [({}, 1), ({"lora": LoraConfig(r=1, target_modules=["q_proj"])}, 1), ({"precompute_ref_log_probs": False}, 2)],
    ids=["cached", "cached with an adapter", "live"],
)
def test_the_reference_model_is_in_memory_where_it_is_live_alone(
    settings: dict[str, object], models: int, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    before = weight_bytes()
    trainer = make_trainer(tiny_model("text"), text_cache, tmp_path / "1", **settings)
    size = sum(weights.nbytes for weights in trainer.model.parameters())
    assert round((weight_bytes() - before) / size) == models


def test_an_adapter_leaves_the_hash_of_the_weights_as_it_is(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 4))
    whole = make_trainer(tiny_model("llava"), cache, tmp_path / "1")
    adapted = make_trainer(tiny_model("llava"), cache, tmp_path / "2", lora=LoraConfig(target_modules="all-linear"))
    assert weights_hash(whole.model) == weights_hash(adapted.model)
    with torch.no_grad():
        next(whole.model.parameters()).add_(1e-3)
    assert weights_hash(whole.model) != weights_hash(adapted.model)


def test_values_without_their_parts_are_not_there(tmp_path: Path) -> None:
    store, parts = ReferenceStore(tmp_path), {"split": "train", "seed": 0}
    store.save(parts, {"ref_logps": [1.0, 2.0]})
    found = store.find(parts)
    assert found is not None
    assert found["ref_logps"][:] == [1.0, 2.0]
    (store.entry(parts) / "reference.json").unlink()
    assert store.find(parts) is None


def test_values_that_several_save_at_once_are_whole_from_the_first_on(tmp_path: Path) -> None:
    """By threads, which share a process number as processes of two machines may."""
    store, parts, columns = ReferenceStore(tmp_path), {"split": "train"}, {"ref_logps": [1.0, 2.0]}

    def save(_: int) -> bool:
        store.save(parts, columns)
        return store.find(parts) is not None

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(save, range(20)))
    assert list(tmp_path.iterdir()) == [store.entry(parts)]


def test_values_that_are_whole_stay_and_damaged_ones_go(tmp_path: Path) -> None:
    store, parts, columns = ReferenceStore(tmp_path), {"split": "train"}, {"ref_logps": [1.0, 2.0]}
    store.save(parts, columns)
    (file,) = store.entry(parts).glob("*.arrow")
    number = file.stat().st_ino
    store.save(parts, columns)
    assert file.stat().st_ino == number
    (store.entry(parts) / "reference.json").unlink()
    store.save(parts, columns)
    assert store.find(parts) is not None


def test_data_seed_decides_groups_and_their_order_in_the_place_of_seed(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    def order(**seeds: int) -> list[list[int]]:
        trainer = make_trainer(tiny_model("text"), text_cache, tmp_path / "run", **seeds)
        return list(trainer.get_train_dataloader().batch_sampler)

    wanted = order(seed=7)
    assert order(seed=1, data_seed=7) == wanted != order(seed=1)
    assert len(list((text_cache / "reference").iterdir())) == 2, "one for each order of rows"

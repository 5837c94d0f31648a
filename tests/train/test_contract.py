"""What this package takes for granted of TRL, on two rows. `make contract` runs it with each TRL that is supported."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, stock_rows, text_records
from conftest import TinyModel
from packaging.specifiers import SpecifierSet
from peft import LoraConfig
from test_loss_equality import TOLERANCE, make_args, trained
from test_resume import assert_same_run, drawn_cache
from test_resume import trained as run_of
from transformers import set_seed
from trl import KTOTrainer

from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache
from kto_train.bounds import MEASURED
from kto_train.columns import REF_KL_LOGPS, REF_LOGPS, SUPPORTED

pytestmark = pytest.mark.slow

OVERRIDES = (
    "_prepare_dataset", "_set_signature_columns_if_needed", "_precompute_ref_logps", "_load_from_checkpoint",
    "compute_ref_log_probs", "get_train_dataloader", "get_eval_dataloader", "create_model_card", "_load_best_model",
    "_run_epoch", "_determine_best_metric",
)  # fmt: skip


@pytest.fixture
def trainers(tiny_model: TinyModel, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function to (stock trainer, ours) on the same two rows, in the same order."""

    def make(family: str, *, lora: LoraConfig | None = None, **settings: Any) -> tuple[KTOTrainer, CachedKTOTrainer]:
        model = tiny_model(family)
        records = text_records(2) if family == "text" else image_records(tmp_path, 2)
        cache = load_cache(make_cache(tmp_path, model, records, records))
        shared = {"per_device_train_batch_size": 2, "num_train_epochs": 3, "learning_rate": 1e-2}
        shared |= {"per_device_eval_batch_size": 2, "eval_strategy": "epoch"}
        args = make_args(tmp_path / "cached", **shared, **settings)
        set_seed(0)  # some versions draw an adapter before they set the seed
        cached = CachedKTOTrainer(str(model), cache=cache, args=args, peft_config=lora)
        set_seed(0)
        rows = stock_rows(records, None if family == "text" else tmp_path)
        stock = KTOTrainer(
            str(model),
            args=make_args(tmp_path / "stock", **shared),
            train_dataset=rows.select(cached.train_groups[0]),
            eval_dataset=rows.select(cached._groups_of(cached.eval_dataset, "eval")[0]),
            processing_class=load_processor(str(model)).processing_class,
            peft_config=lora,
        )
        return stock, cached

    return make


def assert_equal_training(stock: KTOTrainer, cached: KTOTrainer) -> None:
    """Losses, weights, and all that an evaluation measures, after each of three steps."""
    expected, expected_weights = trained(stock)
    found, weights = trained(cached)
    assert len(found) == 3
    expected_measures, measures = evaluations(stock), evaluations(cached)
    assert len(measures) == 3
    assert {name for one in measures for name in one} <= {f"eval_{name}" for name in MEASURED}
    for one, other in zip(measures, expected_measures, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert all(one == pytest.approx(other, abs=TOLERANCE) for one, other in zip(found, expected, strict=True))
    assert float((weights - expected_weights).abs().max()) <= TOLERANCE


def evaluations(trainer: KTOTrainer) -> list[dict[str, float]]:
    """What each evaluation of a training measured, all but what the time of day decides."""
    times = ("_runtime", "_per_second")
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    return [{name: log[name] for name in log if name[:5] == "eval_" and not name.endswith(times)} for log in logs]


@pytest.mark.parametrize("package", sorted(SUPPORTED))
def test_the_installed_version_is_one_of_those_supported(package: str) -> None:
    assert SpecifierSet(SUPPORTED[package]).contains(version(package))


@pytest.mark.parametrize("name", OVERRIDES)
def test_what_is_overridden_is_there(name: str) -> None:
    assert hasattr(KTOTrainer, name)
    assert getattr(CachedKTOTrainer, name) is not getattr(KTOTrainer, name)


@pytest.mark.parametrize("family", ["text", "llava"])
def test_a_batch_is_that_of_trls_own_collator(family: str, trainers: Any) -> None:
    expected, found = (next(iter(trainer.get_train_dataloader())) for trainer in trainers(family))
    assert found.keys() - {REF_LOGPS, REF_KL_LOGPS} == expected.keys()
    assert [key for key in expected if not torch.equal(torch.as_tensor(expected[key]), found[key])] == []


@pytest.mark.parametrize("reference", ["live", "cached"])
@pytest.mark.parametrize("family", ["text", "llava"])
def test_two_rows_are_trained_as_trl_trains_them(family: str, reference: str, trainers: Any) -> None:
    stock, cached = trainers(family, precompute_ref_log_probs=reference == "cached")
    assert_equal_training(stock, cached)


@pytest.mark.parametrize("reference", ["live", "cached"])
def test_an_adapter_is_trained_as_trl_trains_it(reference: str, trainers: Any) -> None:
    lora = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj)")
    assert_equal_training(*trainers("llava", lora=lora, precompute_ref_log_probs=reference == "cached"))


@pytest.mark.parametrize(("family", "lora"), [("text", False), ("llava", False), ("llava", True)])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    family: str, lora: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model, cache = tiny_model(family), drawn_cache(family, tiny_model(family), tmp_path, 6)
    whole = run_of(model, cache, tmp_path / "whole", lora=lora, save_steps=1)
    resume = tmp_path / "whole" / "checkpoint-1"
    assert_same_run(run_of(model, cache, tmp_path / "resumed", lora=lora, save_steps=1, resume=resume), whole)

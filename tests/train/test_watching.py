"""Watches and the guard in real trainings: each fault is provoked, and a healthy run is left in peace."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from caches import make_cache, sentence, text_records
from conftest import TinyModel, make_image
from safetensors.torch import load_file, save_file
from test_loss_equality import make_args
from test_train_cli import make_config
from transformers import TrainerCallback

from kto_data.cli import main
from kto_data.errors import DivergedError, ExitCode
from kto_train import CachedKTOTrainer, load_cache
from kto_train.checkpoint import last_whole
from kto_train.dataset import read_rows
from kto_train.groups import build_groups
from kto_train.guard import FiniteGuard
from kto_train.metrics import read_metrics
from kto_train.step_rows import StepRows
from kto_train.stopping import StopSignals
from kto_train.train import _train_and_save, run

pytestmark = pytest.mark.slow

NO_WARMUP = {"lr_scheduler_type": "constant"}


def trained(
    cache: Path, model: Path, *, reference: str = "cached", seed: int = 0, **kto: Any
) -> tuple[list[str], list[str]]:
    """(names of the warnings, all that was said) of a run beside the cache."""
    said: list[str] = []
    config = make_config(cache, model, cache.parent / "run", kto=NO_WARMUP | kto, reference=reference, seed=seed)
    assert run(config, dry_run=False, say=said.append) == ExitCode.OK
    seen = [name for entry in read_metrics(cache.parent / "run") for name in entry.get("warnings", ())]
    return list(dict.fromkeys(seen)), said


def with_label(label: bool) -> list[dict[str, Any]]:
    return [record | {"label": label} for record in text_records(12)]


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("rate", [3e-4, 1e-3])
def test_a_healthy_run_is_left_in_peace(rate: float, loss_type: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """One that learns: all that is watched moves, and far."""
    cache = make_cache(tmp_path, tiny_model("text"), text_records(24))
    names, _ = trained(cache, tiny_model("text"), learning_rate=rate, max_steps=36, loss_type=loss_type)
    assert names == []
    first, *_, last = (entry for entry in read_metrics(tmp_path / "run") if "loss" in entry)
    assert last["loss"] < 0.75 * first["loss"]
    assert last["rewards/chosen"] > 1
    assert last["rewards/rejected"] < -0.2
    assert last["rewards/margins"] > 1
    assert last["kl"] > 5 or loss_type != "kto"


def test_kl_at_zero_and_a_collapse_are_seen_where_all_is_pushed_down(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), with_label(False))
    names, said = trained(cache, tiny_model("text"), learning_rate=1e-2, max_steps=28)
    assert {"kl-at-zero", "undesirable-collapsing"} <= set(names)
    assert any("KL is 0 in 25 logs in a row, while rewards move. Likely: every completion" in line for line in said)


def test_a_rising_kl_is_seen_where_all_is_pushed_up(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), with_label(True))
    assert "kl-rising" in trained(cache, tiny_model("text"), learning_rate=1e-2, max_steps=28)[0]


def test_a_batch_unlike_all_others_is_seen_and_its_rows_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    records = text_records(50)
    for i, record in enumerate(records[:2]):
        record["messages"][1]["content"] = " ".join(map(sentence, range(80 * i, 80 * i + 80)))
    cache = make_cache(tmp_path, tiny_model("text"), records)
    rows = read_rows(load_cache(cache)["train"])
    last = 25  # the last step of the epoch, which is to have both long rows
    orders = (
        (seed, StepRows(build_groups(rows, batch_size=2, seed=seed), seed, 1).of(last, last)) for seed in range(500)
    )
    seed, of_step = next((seed, found) for seed, found in orders if set(found) == {0, 1})
    kto = {"learning_rate": 1e-6, "max_steps": last, "per_device_train_batch_size": 2}
    names, said = trained(cache, tiny_model("text"), seed=seed, **kto)
    assert names == ["spike"]
    (warning,) = [line for line in said if "jumped to" in line]
    told = ", ".join(f"{row} (train.jsonl:{row + 1})" for row in of_step)
    assert warning.startswith(f"warning: step {last}: the gradient norm jumped to ")
    assert warning.endswith(f"Of step {last}: rows {told} (ktodata inspect {cache} --row {of_step[0]})")


def test_completions_without_tokens_are_seen(tiny_model: TinyModel, tmp_path: Path) -> None:
    """What stock TRL makes of prompts that fill its `max_length`, and a cache holds only if something went wrong."""
    model = tiny_model("text")
    cache = make_cache(tmp_path, model, text_records(8))
    names, said = trained(empty_completions(cache), model, max_steps=3)
    assert names == ["no-gradient"]
    (warning,) = [line for line in said if "the gradient is 0" in line]
    assert "no token of a completion reaches the loss" in warning
    assert f"ktodata inspect {cache} --row " in warning


def empty_completions(cache: Path) -> Path:
    """The cache, with the completion of every row taken away."""
    shard = cache / "train" / "data-00000.arrow"
    with pa.ipc.open_stream(shard.read_bytes()) as reader:
        table = reader.read_all()
    place = table.schema.get_field_index("completion_ids")
    field = table.schema.field(place)
    table = table.set_column(place, field, pa.array([[]] * len(table), field.type))
    with pa.ipc.new_stream(shard, table.schema) as writer:
        writer.write_table(table)
    return cache


def test_a_loader_slower_than_the_step_is_seen(tiny_model: TinyModel, tmp_path: Path) -> None:
    image = make_image(tmp_path / "large.png", 2400, 1800, noise_seed=1)
    records = [record | {"images": [image.name]} for record in text_records(12)]
    for record in records:
        record["messages"][0]["content"] = f"<image>{record['messages'][0]['content']}"
    cache = make_cache(tmp_path, tiny_model("llava"), records)
    kto = {"max_steps": 12, "per_device_train_batch_size": 2, "loss_type": "apo_zero_unpaired"}
    names, said = trained(cache, tiny_model("llava"), reference="live", **kto)
    assert names == ["data-starvation"]
    assert any("of the time is spent waiting for data. Likely: batches are made more slowly" in line for line in said)


def test_a_training_that_diverges_stops_before_its_weights_are_spoilt(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, output = make_cache(tmp_path, tiny_model("text"), text_records(12)), tmp_path / "run"
    options = ["--cache", str(cache), "--model", str(tiny_model("text")), "--output", str(output)]
    settings = [f"--set=kto.{key}" for key in ("learning_rate=1e+30", "save_steps=1", "max_steps=4")]
    assert main(["train", *options, "--batch-size", "4", *settings]) == ExitCode.USAGE
    rows = StepRows(build_groups(read_rows(load_cache(cache)["train"]), batch_size=4, seed=0), 0, 1).of(2, 2)
    told = ", ".join(f"{row} (train.jsonl:{row + 1})" for row in rows)
    said = capsys.readouterr().err
    assert f"error: step 2: the gradient is not finite; rows {told}. Likely: an overflow on these rows" in said
    assert f"{output}/checkpoint-1 is whole" in said
    assert f"try: ktodata inspect {cache} --row {rows[0]}; then a lower kto.learning_rate" in said
    assert last_whole(output) == (output / "checkpoint-1", [])
    weights = load_file(output / "checkpoint-1" / "model.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert not (output / "model.safetensors").exists()
    assert json.loads((output / "run.json").read_text())["status"] == "diverged"
    assert "<h1>Diverged: " in (output / "report.html").read_text()
    assert (output / "plots" / "overview.png").exists()


def test_weights_that_are_not_finite_from_the_start_are_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model("text"), tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    cache = make_cache(tmp_path, model, text_records(12))
    with pytest.raises(DivergedError, match=r"step 1: .* before this step, of model\.norm\.weight first"):
        trained(cache, model, reference="live")


def test_a_model_that_is_found_diverged_after_its_last_step_is_not_saved(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache, output = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(12))), tmp_path / "run"
    args = make_args(output, max_steps=2)
    trainer = CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=args, callbacks=[Spoilt(step=2)])
    trainer.add_callback(FiniteGuard(StepRows(trainer.train_groups, 0, 1), cache=str(cache.path), output=output))
    with pytest.raises(DivergedError, match="step 2: the loss is not finite"):
        _train_and_save(trainer, None, StopSignals(print))
    assert trainer.state.global_step == 2
    assert not (output / "model.safetensors").exists()


class Spoilt(TrainerCallback):  # type: ignore[misc]
    """A loss that is no number, as a step in half precision logs it, whose gradient the guard leaves to the scaler."""

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == self.step and "loss" in logs:
            logs["loss"] = math.nan

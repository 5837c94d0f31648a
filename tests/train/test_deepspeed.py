"""DeepSpeed from the configurations that come with the package, on two processes without a device."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import zero_memory
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from safetensors.torch import load_file
from test_launch import command
from test_train_cli import metrics
from two_processes import start

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_train.checkpoint import last_whole
from kto_train.metrics import METRICS_NAME

pytestmark = pytest.mark.slow

AS_ZERO_MEMORY = ("--max-steps", "2", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def text_cache(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("deepspeed"), tiny_model("text"), text_records(16))


@pytest.fixture(scope="module")
def without(text_cache: Path, tiny_model: TinyModel) -> Path:
    """A run of two processes without DeepSpeed."""
    output = text_cache.parent / "without"
    assert main(command(text_cache, tiny_model("text"), output, *AS_ZERO_MEMORY)) == ExitCode.OK
    return output


def assert_same_weights(found: Path, expected: Path) -> None:
    weights, expected_weights = (load_file(folder / "model.safetensors") for folder in (found, expected))
    apart = {name: float((value - weights[name]).abs().max()) for name, value in expected_weights.items()}
    assert max(apart.values()) < 1e-6, apart


@pytest.mark.parametrize("stage", ["z2", "z3"])
def test_two_ranks_train_to_the_same_weights_and_hold_what_is_estimated(
    stage: str, without: Path, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    done = start(zero_memory.__file__, stage, str(tiny_model("text")), str(text_cache), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path, without)


def test_offloaded_weights_and_optimizer_train_to_the_same_weights(
    without: Path, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    options = (*AS_ZERO_MEMORY, "--deepspeed", "z3-offload")
    assert main(command(text_cache, tiny_model("text"), tmp_path / "run", *options)) == ExitCode.OK
    assert_same_weights(tmp_path / "run", without)


@pytest.mark.parametrize(("stage", "family"), [("z2", "text"), ("z3", "qwen2_5_vl")])
def test_a_run_that_is_lost_after_a_save_ends_where_an_unbroken_one_does(
    stage: str, family: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Weights and logs, to the bit; what is left of it is all that was written until its second step. The one trains an
    adapter, the other all weights, and saves them by the names they were read by, which those who serve the model know:
    with ZeRO-3, transformers puts a prefix before them."""
    model, whole, lost = tiny_model(family), tmp_path / "whole", tmp_path / "lost"
    records = text_records(16) if family == "text" else image_records(tmp_path, 4)
    cache = make_cache(tmp_path, model, records)
    more, weights = (["--lora-rank", "2"], "adapter_model") if family == "text" else ([], "model")
    options = ("--max-steps", "3", "--learning-rate", "1e-3", "--deepspeed", stage, "--set=kto.save_steps=2", *more)
    assert main(command(cache, model, whole, *options)) == ExitCode.OK
    shutil.copytree(whole, lost)
    shutil.rmtree(lost / "checkpoint-3")
    (lost / f"{weights}.safetensors").unlink()
    (lost / METRICS_NAME).write_text("".join((whole / METRICS_NAME).read_text().splitlines(keepends=True)[:2]))
    assert main([*command(cache, model, lost, *options), "--resume", "auto"]) == ExitCode.OK
    found, expected = (load_file(folder / f"{weights}.safetensors") for folder in (lost, whole))
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    if weights == "model":
        assert found.keys() == load_file(model / "model.safetensors").keys()
    assert metrics(lost) == metrics(whole)
    assert [entry["step"] for entry in metrics(lost) if "loss" in entry] == [1, 2, 3]


@pytest.mark.parametrize("stage", ["z2", "z3"])
def test_a_training_that_diverges_stops_before_a_checkpoint_of_it(
    stage: str, text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though what the step would have logged comes later."""
    output = tmp_path / "run"
    settings = [f"--set={setting}" for setting in (f"deepspeed={stage}", "kto.save_steps=1", "kto.logging_steps=4")]
    options = ("--max-steps", "4", "--learning-rate", "1e30", *settings)
    assert main(command(text_cache, tiny_model("text"), output, *options)) == ExitCode.USAGE
    assert "error: step 2: the gradient is not finite; rows " in capfd.readouterr().err
    assert last_whole(output) == (output / "checkpoint-1", [])

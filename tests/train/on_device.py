"""What only a device can show: half precision, FSDP and DeepSpeed where they belong. `make device`

Not among the tests that every machine runs: without a device FSDP is refused, and the rest shows less.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sharded
import torch
from caches import make_cache, text_records
from conftest import TinyModel
from safetensors.torch import load_file
from test_loss_equality import REFERENCES, Case, assert_equals_stock
from test_resume import assert_same_run, drawn_cache, trained
from two_processes import start

from kto_data.cli import main
from kto_data.errors import ExitCode

HALF: dict[str, dict[str, Any]] = {
    "autocast": {"bf16": True},
    "weights": {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}},
}
IN_FULL = ("--set", "kto.bf16=false", "--max-steps", "3", "--learning-rate", "1e-3", "--batch-size", "2")


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["text", "llava", "qwen2_5_vl", "gemma3"])
def test_two_epochs_in_half_precision_equal_stock_trl(
    family: str, method: str, half: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    assert_equals_stock(Case(family, tiny_model(family), tmp_path, method, **HALF[half]), REFERENCES)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize(("family", "lora"), [("qwen2_5_vl", False), ("llava", True)])
def test_a_resumed_run_in_half_precision_ends_where_an_unbroken_one_does(
    family: str, lora: bool, half: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model, cache = tiny_model(family), drawn_cache(family, tiny_model(family), tmp_path, 6)
    settings = {"lora": lora, "save_steps": 1, **HALF[half]}
    whole = trained(model, cache, tmp_path / "whole", **settings)
    resume = tmp_path / "whole" / "checkpoint-1"
    assert_same_run(trained(model, cache, tmp_path / "resumed", resume=resume, **settings), whole)


def test_one_rank_of_fsdp_trains_as_a_plain_run(tmp_path: Path) -> None:
    sharded.prepare(tmp_path)
    done = start("-m", "torch.distributed.run", "--standalone", sharded.__file__, str(tmp_path), ranks=1)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", ["text", "llava"])
def test_the_command_trains_with_fsdp(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """From the plain command: it starts what FSDP needs."""
    cache, model = drawn_cache(family, tiny_model(family), tmp_path, 12).path, tiny_model(family)
    fsdp = ("--set", "kto.fsdp=true", "--set", "kto.save_steps=2")
    assert main(train(cache, model, tmp_path / "with", *fsdp)) == ExitCode.OK
    shutil.rmtree(cache / "reference")  # which is computed again, and not by FSDP
    assert main(train(cache, model, tmp_path / "without")) == ExitCode.OK
    assert_near(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize("stage", ["z2", "z3", "z3-offload"])
def test_a_stage_of_deepspeed_trains_as_a_plain_run(stage: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    cache, model = make_cache(tmp_path, tiny_model("llama3"), text_records(12)), tiny_model("llama3")
    assert main(train(cache, model, tmp_path / "with", "--deepspeed", stage)) == ExitCode.OK
    assert main(train(cache, model, tmp_path / "without")) == ExitCode.OK
    assert_near(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_packed_weights_are_trained_above_from_the_command(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    cache, model = drawn_cache(family, tiny_model(family), tmp_path, 12).path, tiny_model(family)
    packed = ("--lora-rank", "4", "--set", "quantization.load_in_4bit=true", "--set", "kto.save_steps=2")
    assert main(train(cache, model, tmp_path / "run", *packed)) == ExitCode.OK
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert any(bool(value.any()) for name, value in saved.items() if "lora_B" in name)


def train(cache: Path, model: Path, output: Path, *options: str) -> list[str]:
    return ["train", "--cache", str(cache), "--model", str(model), "--output", str(output), *IN_FULL, *options]


def assert_near(found: Path, expected: Path) -> None:
    """Sums are in another order, and Adam's first steps are as large for a gradient near 0 as for any."""
    weights, expected_weights = (load_file(folder / "model.safetensors") for folder in (found, expected))
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-4)

"""An adapter above weights that bitsandbytes has packed, which it also does on a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from peft import PeftModel
from safetensors.torch import load_file
from test_loss_equality import REFERENCES, Case, assert_equals_stock
from test_resume import assert_same_run, drawn_cache, trained
from test_train_cli import make_config
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from kto_data.errors import ConfigError, ExitCode
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer
from kto_train.estimate import Estimator, Setup
from kto_train.memory import largest_batch
from kto_train.train import run

pytestmark = pytest.mark.slow

PACKINGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"},
    "nf4, twice": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
ADAPTER = {"r": 4, "target_modules": "all-linear"}


def quiet(line: str) -> None:
    pass


def quantized_case(family: str, model: Path, root: Path, packing: str) -> Case:
    case = Case(family, model, root, "lora")
    case.options = {"quantization_config": BitsAndBytesConfig(**PACKINGS[packing])}
    return case


@pytest.mark.parametrize(("family", "packing"), [("text", "nf4, twice"), ("llava", "nf4"), ("qwen2_5_vl", "int8")])
def test_two_epochs_above_packed_weights_equal_stock_trl(
    family: str, packing: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """With a reference that is cached too: it is computed as a step computes it, bit for bit."""
    assert_equals_stock(quantized_case(family, tiny_model(family), tmp_path, packing), REFERENCES)


def test_what_is_saved_is_an_adapter_that_the_packed_model_takes(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llava")
    cache = make_cache(tmp_path, model, image_records(tmp_path, 8))
    config = make_config(cache, model, tmp_path / "run", lora=ADAPTER, quantization=PACKINGS["nf4"])
    assert run(config, dry_run=False, say=quiet) == ExitCode.OK
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert any(bool(value.any()) for name, value in saved.items() if "lora_B" in name)
    packed = AutoModelForImageTextToText.from_pretrained(
        model, quantization_config=BitsAndBytesConfig(**PACKINGS["nf4"])
    )
    loaded = PeftModel.from_pretrained(packed, tmp_path / "run")
    layers = {type(layer).__name__ for layer in loaded.modules()}
    assert "Linear4bit" in layers
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("packing", ["nf4", "int8"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(packing: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """Its adapter is of half precision, which peft does not keep when it reads one."""
    model, cache = tiny_model("text"), drawn_cache("text", tiny_model("text"), tmp_path, 12)
    settings = {"lora": True, "packing": PACKINGS[packing], "save_steps": 2, "learning_rate": 1e-2}
    whole = trained(model, cache, tmp_path / "whole", **settings)
    resume = tmp_path / "whole" / "checkpoint-2"
    assert_same_run(trained(model, cache, tmp_path / "resumed", resume=resume, **settings), whole)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("family", ["text", "llava"])
def test_memory_is_estimated_as_it_is_held(family: str, packing: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    trainer = quantized_case(family, tiny_model(family), tmp_path, packing).cached("cached")
    trainer.train()
    architecture = AutoConfig.from_pretrained(tiny_model(family))
    processor = load_processor(str(tiny_model(family)))
    batch = largest_batch(trainer.cache, trainer.train_groups, processor, architecture)
    adapter = trainer.model.peft_config["default"]
    setup = Setup.of(trainer.args, architecture, adapter, BitsAndBytesConfig(**PACKINGS[packing]))
    parts = Estimator(architecture).estimate(batch, setup)
    assert parts.weights == pytest.approx(held_by_weights(trainer), rel=0.02)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert parts.gradients == sum(weight.nbytes for weight in trained)
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if value.dim()]
    assert parts.optimizer == pytest.approx(sum(state.nbytes for state in states), rel=0.01)


def held_by_weights(trainer: CachedKTOTrainer) -> int:
    """Bytes of all weights, and of the scales of those that are packed."""
    held = 0
    for weight in trainer.model.parameters():
        held += weight.nbytes
        packing = getattr(weight, "quant_state", None)
        while packing is not None:
            held += packing.absmax.nbytes
            packing = packing.state2
        scales = getattr(weight, "SCB", None)
        held += 0 if scales is None else scales.nbytes
    return held


@pytest.mark.parametrize(
    ("quantization", "told"),
    [
        ({"load_in_4bits": True}, "quantization.load_in_4bits"),
        ({"bnb_4bit_quant_type": "nf4"}, "quantization asks for neither 4 nor 8 bits"),
        ({"load_in_4bit": "yes"}, "quantization: load_in_4bit must be a boolean"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float33"}, "quantization: "),
    ],
)
def test_what_would_pack_nothing_is_refused_before_weights_are_read(
    quantization: dict[str, Any], told: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(4))
    config = make_config(cache, tiny_model("text"), tmp_path / "run", lora=ADAPTER, quantization=quantization)
    with pytest.raises(ConfigError) as raised:
        run(config, dry_run=True, say=quiet)
    assert told in raised.value.what

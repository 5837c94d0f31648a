"""FSDP beside the same training without it, on as many ranks as are started: `sharded.py FOLDER`.

`prepare` makes the models and caches beforehand. Without a device accelerate would leave FSDP out: it is told of a kind
of device that is not looked for, and everything is on processors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import conftest  # noqa: F401  (the environment of the tests)
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from mixes import make_model
from safetensors.torch import load_file
from test_loss_equality import ON_DEVICE, TOLERANCE, Case
from test_resume import assert_same_run, drawn_cache, trained
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText

from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache
from kto_train.estimate import COUNT_ERROR, Estimator, Setup
from kto_train.memory import largest_batch

TRAINED = (
    ("text", "full", "cached"),
    ("llama3", "full", "cached"),
    ("qwen2_5_vl", "full", "live"),
    ("qwen2_5_vl", "full", "cached"),
    ("llava", "full", "cached"),
    ("llava", "lora", "cached"),
)
"""With a head that is the embeddings and with one of its own; LLaVA is named layers that it has not."""
RESUMED = (("qwen2_5_vl", False), ("llava", True))


def prepare(folder: Path) -> None:
    for family in {family for family, *_ in TRAINED}:
        Case(family, make_model(family, folder), folder / family, "full")
    for family, _ in RESUMED:
        drawn_cache(family, make_model(family, folder), folder / "resumed" / family, 12)


def main(folder: Path) -> None:
    for family, method, reference in TRAINED:
        expected, found = (train(folder, family, method, reference, fsdp=fsdp) for fsdp in (False, True))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            told = f"{family}, {method}, {reference} reference: {name} is not that of a plain run"
            torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE, msg=told)
    for family, lora in RESUMED:
        check_a_resumed_run_ends_where_an_unbroken_one_does(folder, family, lora=lora)


def train(folder: Path, family: str, method: str, reference: str, *, fsdp: bool) -> dict[str, torch.Tensor]:
    """The losses of all steps, the values of a cached reference, and the weights afterwards, by name; what is saved has
    the names of what was read."""
    output = folder / "saved" / f"{family}-{method}-{fsdp}"
    # Gradients of ranks are added up in another order, and Adam's first steps are as large for one near 0 as for any.
    plain_steps = {"optim": "sgd", "learning_rate": 1e-1}
    case = Case(family, folder / "models" / family, folder / family, method, **plain_steps, **settings(fsdp=fsdp))
    case.options = {"reference_folder": output / "reference"}  # computed by each way of training
    trainer = case.cached(reference)
    found = {}
    if reference == "cached":
        found = {name: torch.tensor(trainer.train_dataset[name][:]) for name in ("ref_logps", "ref_KL_logps")}
    trainer.train()
    assert any(isinstance(weight, DTensor) for weight in trainer.model.parameters()) == fsdp
    weights = {plain(name): whole(weight) for name, weight in trainer.model.named_parameters()}
    trainer.save_model(str(output))
    trainer.accelerator.wait_for_everyone()
    if method == "full":
        saved, read_from = (set(load_file(at / "model.safetensors")) for at in (output, Path(case.model)))
        assert saved ^ read_from <= ({"lm_head.weight"} if family == "text" else set())  # FSDP writes a tied one twice
    if method == "full" and family == "llava":
        read = AutoModelForImageTextToText.from_pretrained(output).state_dict()
        assert all(torch.equal(read[name], weight.cpu()) for name, weight in weights.items())
    losses = torch.tensor([log["loss"] for log in trainer.state.log_history if "loss" in log])
    return {"loss": losses, **found, **weights}


def settings(*, fsdp: bool) -> dict[str, object]:
    """Those of a training, for which accelerate is set up anew."""
    AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # which the training before may have left
    state = PartialState() if ON_DEVICE else PartialState(cpu=True, backend="gloo")
    devices = DistributedType.MULTI_GPU if ON_DEVICE else DistributedType.MULTI_XPU
    state.distributed_type = devices if fsdp or ON_DEVICE else DistributedType.MULTI_CPU
    configured = {} if ON_DEVICE else {"accelerator_config": {"use_configured_state": True}}
    spread = {"fsdp": True, "fsdp_config": {"version": 2}} if fsdp else {}
    return {**configured, **spread}


def check_a_resumed_run_ends_where_an_unbroken_one_does(folder: Path, family: str, *, lora: bool) -> None:
    root = folder / "resumed" / family
    model, cache = folder / "models" / family, load_cache(root / "cache")

    def run(name: str, resume: Path | None = None) -> CachedKTOTrainer:
        more = settings(fsdp=True)
        return trained(model, cache, root / name, lora=lora, save_steps=1, resume=resume, **more)  # type: ignore[arg-type]

    expected = run("whole")
    if not lora:
        assert_held_as_estimated(expected)
    assert_same_run(run("again", root / "whole" / "checkpoint-1"), expected)


def assert_held_as_estimated(trainer: CachedKTOTrainer) -> None:
    config = trainer.model.config
    processor = load_processor(config._name_or_path)
    batch = largest_batch(trainer.cache, trainer.train_groups, processor, config)
    parts = Estimator(config).estimate(batch, Setup.of(trainer.args, config, None))
    states = [value for of_one in trainer.optimizer.optimizer.state.values() for value in of_one.values()]
    held = sum(value.to_local().nbytes for value in states if isinstance(value, DTensor))
    assert abs(held / parts.optimizer - 1) <= COUNT_ERROR, (held, parts)


def whole(weight: torch.Tensor) -> torch.Tensor:
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()


def plain(name: str) -> str:
    """A name without what wraps its layer for checkpointing."""
    return name.replace("_checkpoint_wrapped_module.", "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # gloo's threads of the groups that accelerate has made may not end by themselves

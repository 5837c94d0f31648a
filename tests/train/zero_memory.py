"""What DeepSpeed holds on each of two ranks, against the estimate: `zero_memory.py STAGE MODEL CACHE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  (the environment of the tests)
import pytest
import torch
from test_train_cli import make_config
from transformers import AutoConfig, TrainerCallback

from kto_train.estimate import Estimator, Parts, Setup
from kto_train.memory import largest_batch
from kto_train.plan import make_plan
from kto_train.train import _make_trainer, check_installed

NOT_SPREAD = 8  # bytes: counters of steps, and what makes shares even


class Held(TrainerCallback):  # type: ignore[misc]
    """Bytes of one rank, between two steps."""

    parts: Parts

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        zero, model = kwargs["optimizer"].optimizer, kwargs["model"]
        states = [value for of_one in zero.optimizer.state.values() for value in of_one.values()]
        is_third = hasattr(zero, "fp32_partitioned_groups_flat")
        masters = zero.fp32_partitioned_groups_flat if is_third else zero.single_partition_of_fp32_groups
        self.parts = Parts(
            weights=sum(weight.ds_tensor.nbytes if is_third else weight.nbytes for weight in model.parameters()),
            gradients=zero.grad_partitions_flat_buffer.nbytes if is_third else 0,
            optimizer=sum(tensor.nbytes for tensor in (*masters, *states) if isinstance(tensor, torch.Tensor)),
        )


def main(stage: str, model: str, cache: str, folder: str) -> None:
    check_installed()
    kto = {"max_steps": 2, "per_device_train_batch_size": 2}
    plan = make_plan(make_config(Path(cache), Path(model), Path(folder), deepspeed=stage, kto=kto))
    held = Held()
    trainer = _make_trainer(plan, [held])
    trainer.train()
    trainer.save_model()
    architecture = AutoConfig.from_pretrained(model)
    batch = largest_batch(plan.cache, plan.groups, plan.processor, architecture)
    parts = Estimator(architecture).estimate(batch, Setup.of(plan.args, architecture, None))
    assert held.parts.optimizer == pytest.approx(parts.optimizer, abs=NOT_SPREAD)
    if stage == "z2":
        assert held.parts.weights == parts.weights
    else:
        assert held.parts.gradients == pytest.approx(parts.gradients, abs=NOT_SPREAD)
        assert held.parts.weights <= parts.weights  # of which some are whole while they compute


if __name__ == "__main__":
    main(*sys.argv[1:])

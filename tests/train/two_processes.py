"""What is checked on two ranks, in one start of `torchrun`: a process of its own imports for longer than it trains.

`prepare` makes the models and caches in FOLDER beforehand. A check that fails ends the program with its traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import conftest  # noqa: F401  (the environment of the tests)
import numpy as np
import tiny_models
import torch
from accelerate import PartialState
from test_loss_equality import REFERENCES, Case, assert_equals_stock
from test_resume import assert_same_run
from transformers import TrainerCallback

from kto_train.checkpoint import flaw
from kto_train.reference import as_values
from kto_train.stopping import StopSignals

RANK = int(os.environ.get("RANK", "0"))


def prepare(folder: Path) -> None:
    models = folder / "models"
    for family in ("text", "qwen2_5_vl"):
        tiny_models.build(family, models / family)
        Case(family, models / family, folder / family, "full")
    Case("text", models / "text", folder / "reference", "full")
    Case("text", models / "text", folder / "stopped", "full")


def main(folder: Path) -> None:
    models = folder / "models"
    check_equality(folder / "text", models)
    check_equality(folder / "qwen2_5_vl", models)
    check_an_unfinished_reference_is_gone_on_with(folder / "reference", models)
    check_a_signal_to_one_rank_stops_both(folder / "stopped", models)


def check_equality(folder: Path, models: Path) -> None:
    family = folder.name
    case = Case(family, models / family, folder, "full", gradient_accumulation_steps=2)
    assert_equals_stock(case, REFERENCES)
    if family != "text":
        assert_equals_stock(Case(family, models / family, folder, "lora"), ("live",))


def check_an_unfinished_reference_is_gone_on_with(folder: Path, models: Path) -> None:
    """Also where the groups that are left are no multiple of the ranks."""
    case = Case("text", models / "text", folder, "full")
    whole = case.cached("cached")
    values = np.array(whole.train_dataset["ref_logps"][:], dtype=np.float32)
    parts = whole._reference_parts("train", whole.train_groups)
    kl = np.array(whole.train_dataset["ref_KL_logps"][:], dtype=np.float32)
    PartialState().wait_for_everyone()
    if RANK == 0:
        rows = whole.train_groups[1]
        whole._store.unfinished(parts).append(as_values(rows, torch.tensor(values[rows]), torch.tensor(kl[rows])))
        (whole._store.entry(parts) / "reference.json").unlink()
    PartialState().wait_for_everyone()
    again = case.cached("cached")
    assert again.train_dataset["ref_logps"][:] == whole.train_dataset["ref_logps"][:]
    assert again.train_dataset["ref_KL_logps"][:] == whole.train_dataset["ref_KL_logps"][:]
    assert not whole._store.unfinished(parts).folder.exists()


def check_a_signal_to_one_rank_stops_both(folder: Path, models: Path) -> None:
    """And the run that is gone on with ends where the unbroken one does."""
    case = Case("text", models / "text", folder, "full", save_strategy="steps", save_steps=100, logging_steps=2)
    whole, broken = case.cached("cached"), case.cached("cached")
    whole.train()
    with StopSignals(print) as signals:
        broken.add_callback(signals)
        broken.add_callback(Signal(at_step=1, to_rank=1))
        broken.train()
    assert signals.stopped
    broken.accelerator.wait_for_everyone()
    checkpoint = folder / "cached" / "checkpoint-1"
    assert flaw(checkpoint) == ""
    resumed = case.cached("cached")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_run(resumed, whole)


class Signal(TrainerCallback):  # type: ignore[misc]
    """SIGTERM, sent to one of the ranks while it is at a step."""

    def __init__(self, *, at_step: int, to_rank: int) -> None:
        self.at_step = at_step
        self.to_rank = to_rank

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step == self.at_step - 1 and args.process_index == self.to_rank:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

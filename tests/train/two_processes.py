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
from accelerate.state import AcceleratorState, GradientState
from caches import make_cache, text_records
from safetensors.torch import load_file
from test_loss_equality import REFERENCES, Case, assert_equals_stock
from test_train_cli import make_config, metrics

from kto_data.errors import ExitCode
from kto_train.reference import as_values
from kto_train.train import run

RANK = int(os.environ.get("RANK", "0"))


def prepare(folder: Path) -> None:
    models = folder / "models"
    for family in ("text", "qwen2_5_vl"):
        tiny_models.build(family, models / family)
        Case(family, models / family, folder / family, "full")
    Case("text", models / "text", folder / "reference", "full")
    make_cache(folder / "stopped", models / "text", text_records(16))


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
    model = models / "text"
    if RANK == 1:
        (folder / "pid").write_text(str(os.getpid()))
    kto = {"per_device_train_batch_size": 2, "max_steps": 6, "logging_steps": 1}

    def stop_the_other(line: str) -> None:
        if line.startswith("step 2/"):
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)

    def outcome(name: str, resume: str | None = None, say=print) -> int:  # type: ignore[no-untyped-def]
        forget_the_processes()
        return run(make_config(folder / "cache", model, folder / name, kto=kto, resume=resume), dry_run=False, say=say)

    assert outcome("whole") == ExitCode.OK
    assert outcome("broken", say=stop_the_other) == ExitCode.INTERRUPTED
    (stopped,) = (folder / "broken").glob("checkpoint-*")
    assert 2 <= int(stopped.name.removeprefix("checkpoint-")) < 6, stopped
    assert outcome("broken", resume="auto") == ExitCode.OK
    if RANK == 1:
        return  # the other one saves the model
    weights = [load_file(folder / name / "model.safetensors") for name in ("whole", "broken")]
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
    assert metrics(folder / "broken") == metrics(folder / "whole")


def forget_the_processes() -> None:
    """A run ends with its process group; the next one in this process makes its own."""
    for state in (GradientState, AcceleratorState, PartialState):
        state._reset_state()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What is checked on two ranks, in one start of `torchrun`: a process of its own imports for longer than it trains.

`prepare` makes the models and caches in the folder beforehand. A check that fails ends the program with its traceback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import conftest  # noqa: F401  (the environment of the tests)
import numpy as np
import pytest
import torch
from accelerate import PartialState
from mixes import MIXES, Mix, compare, make_caches, make_case, make_model
from test_loss_equality import REFERENCES, Case, assert_equals_stock
from test_resume import assert_same_run, drawn_cache, trained
from transformers import TrainerCallback

from kto_data.errors import ConfigError
from kto_train import load_cache
from kto_train.checkpoint import flaw, seal
from kto_train.config import TrainConfig
from kto_train.reference import as_values
from kto_train.stopping import StopSignals
from kto_train.together import agreed_checkpoint, check_alike, what_is_shared

RANK = int(os.environ.get("RANK", "0"))
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
RESUMED = (("gemma3", False), ("qwen2_5_vl", True))
"""Families that every run of the tests goes on with, and whether an adapter is trained."""
MIXED = (("llama3", MIXES[5]), ("gemma3", MIXES[7]))
"""Families and mixes that every run of the tests trains: with and without images, cached by either trainer."""


def prepare(folder: Path) -> None:
    for family in ("text", "qwen2_5_vl"):
        Case(family, make_model(family, folder), folder / family, "full")
    for name in ("reference", "stopped"):
        Case("text", make_model("text", folder), folder / name, "full")
    for family, _ in RESUMED:
        prepare_to_go_on(folder, family)
    for family, _ in MIXED:
        make_caches(family, folder)


def prepare_to_go_on(folder: Path, family: str) -> None:
    drawn_cache(family, make_model(family, folder), folder / "resumed" / family, 12)


def start(*command: str, ranks: int = 2, shown: bool = False) -> subprocess.CompletedProcess[str]:
    """A program of the tests, with its arguments, on so many ranks.

    What it prints is kept, unless it is `shown` as it comes; then it may also take its time.
    """
    launcher = (*LAUNCHER, str(ranks)) if ranks > 1 else ()
    return subprocess.run(
        [sys.executable, *launcher, *command],
        stdout=None if shown else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=None if shown else 1800,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def main(folder: Path) -> None:
    models = folder / "models"
    check_equality(folder / "text", models)
    check_equality(folder / "qwen2_5_vl", models)
    check_an_unfinished_reference_is_gone_on_with(folder / "reference", models)
    check_a_signal_to_one_rank_stops_both(folder / "stopped", models)
    check_what_is_not_shared_is_told(folder / "shared")
    for family, lora in RESUMED:
        check_a_resumed_run_ends_where_an_unbroken_one_does(folder, family, lora=lora)
    for family, mix in MIXED:
        check_a_mix(folder, family, mix)


def check_a_mix(folder: Path, family: str, mix: Mix) -> None:
    outcome = compare(make_case(family, mix, folder), mix.reference)
    assert outcome.is_right, f"{family}, {mix.told(family)}: {outcome}"


def check_a_resumed_run_ends_where_an_unbroken_one_does(folder: Path, family: str, *, lora: bool) -> None:
    root = folder / "resumed" / family
    runs = root / ("lora" if lora else "full")
    model, cache = folder / "models" / family, load_cache(root / "cache")
    whole = trained(model, cache, runs / "whole", lora=lora, save_steps=1)
    resume = runs / "whole" / "checkpoint-1"
    assert_same_run(trained(model, cache, runs / "again", lora=lora, save_steps=1, resume=resume), whole)


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


def check_what_is_not_shared_is_told(folder: Path) -> None:
    """By every process, since each may be on a machine of its own."""
    config = TrainConfig(model="m", cache="c", output_dir=f"run{RANK}", kto={"dataloader_num_workers": RANK})
    check_alike(what_is_shared(config, "1a"))
    told = r"not have the same settings: kto\.beta is 0\.0 in process 0 and 0\.1 in 1$"
    with pytest.raises(ConfigError, match=told):
        check_alike(what_is_shared(config.model_copy(update={"kto": {"beta": RANK / 10}}), "1a"))
    if RANK == 0:
        (folder / "checkpoint-2").mkdir(parents=True)
        seal(folder / "checkpoint-2", 2)
    PartialState().wait_for_everyone()
    assert agreed_checkpoint(None) is None
    assert agreed_checkpoint(folder / "checkpoint-2" if RANK == 0 else None) == folder / "checkpoint-2"
    os.chdir(folder if RANK == 0 else folder.parent)
    with pytest.raises(ConfigError, match="cannot be gone on with from checkpoint-2: process 1 does not find it"):
        agreed_checkpoint(Path("checkpoint-2"))


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

"""Two processes that torchrun or accelerate starts, stopped and killed where it hurts, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import killed_train
import pytest
import torch
from caches import make_cache, text_records
from conftest import TinyModel
from safetensors.torch import load_file
from test_train_cli import make_config, metrics

from kto_train.checkpoint import last_whole
from kto_train.config import TrainConfig, write_config

pytestmark = pytest.mark.slow

STEPS = 36
SAVE_STEPS = 12
KILLED_AT = 24  # far from where a run is stopped that gets a signal once its first step is told
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
"""Its `--cpu` starts one process, whatever number is asked for."""
MODULE = ("-m", "kto_train")


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        yield process


def ran(*command: str) -> tuple[int, str]:
    """(exit code, what was said)"""
    with started(*command) as process:
        said = process.communicate(timeout=600)[1]
    return process.returncode, said


def stopped_at_its_first_step(*command: str) -> str:
    """What was said by a training whose torchrun got SIGTERM once the first step was told."""
    said = []
    with started(*TORCHRUN, *command) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if line.startswith("step "):
                process.terminate()
                break
        said.append(process.stderr.read())
    assert process.returncode != 0
    return "".join(said)


def written(config: TrainConfig, folder: Path) -> str:
    folder.mkdir()
    write_config(config, folder / "given.yaml")
    return str(folder / "given.yaml")


def test_a_run_that_is_stopped_and_one_that_loses_a_process_in_a_save_end_where_an_unbroken_one_does(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(16))
    kto = {"per_device_train_batch_size": 2, "max_steps": STEPS, "save_steps": SAVE_STEPS, "logging_steps": 1}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    made = {folder: make_config(cache, tiny_model("text"), folder / "run", kto=kto) for folder in (whole, broken)}
    given = {folder: written(config, folder) for folder, config in made.items()}
    code, said = ran(*ACCELERATE, *MODULE, "--config", given[whole])
    assert code == 0, said

    said = stopped_at_its_first_step(*MODULE, "--config", given[broken])
    checkpoint, passed_over = last_whole(broken / "run")
    assert (checkpoint is not None, passed_over) == (True, []), said
    assert "SIGTERM: finishing this step, then saving a checkpoint" in said
    stopped_at = int(checkpoint.name.rpartition("-")[2])
    assert 0 < stopped_at < KILLED_AT
    assert (checkpoint / "window_1.json").exists()

    again = ("--config", given[broken], "--resume", "auto")
    lost = f"checkpoint-{KILLED_AT}/trainer_state.json"
    code, said = ran(*TORCHRUN, killed_train.__file__, lost, *again)
    assert code != 0
    assert f"resumed from {checkpoint}, step {stopped_at}" in said
    assert f"Signal {signal.SIGKILL.value} (SIGKILL)" in said
    checkpoint, passed_over = last_whole(broken / "run")
    assert [line.partition(" is passed over")[0] for line in passed_over] == [f"{broken}/run/checkpoint-{KILLED_AT}"]

    code, said = ran(*TORCHRUN, *MODULE, *again)
    assert code == 0, said
    assert f"resumed from {checkpoint}, step {max(stopped_at, SAVE_STEPS)}" in said
    weights, expected = (load_file(folder / "run" / "model.safetensors") for folder in (broken, whole))
    assert [name for name, value in expected.items() if not torch.equal(value, weights[name])] == []
    assert metrics(broken / "run") == metrics(whole / "run")

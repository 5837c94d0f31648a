"""A disk or a memory that is too small for a training, or a data worker that is killed for it, is one line, and the
checkpoint before it stays whole."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from caches import image_records, make_cache, text_records
from conftest import TinyModel
from test_train_cli import make_config
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kto_data.errors import ConfigError, ExitCode, InputError
from kto_train.checkpoint import last_whole
from kto_train.config import TrainConfig
from kto_train.train import run

pytestmark = pytest.mark.slow


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_whole(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(12))
    kto = {"max_steps": 4, "save_steps": 1}
    config = make_config(cache, tiny_model("text"), tmp_path / "run", kto=kto)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def say(line: str) -> None:
        if line.startswith("step 2/"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))

    try:
        with pytest.raises(InputError, match=f"cannot write .*{tmp_path}/run"):
            run(config, dry_run=False, say=say)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoint, passed_over = last_whole(tmp_path / "run")
    assert checkpoint == tmp_path / "run" / "checkpoint-1"
    assert len(passed_over) == 1
    again = config.model_copy(update={"resume": "auto"})
    assert run(again, dry_run=False, say=lambda line: None) == ExitCode.OK


@pytest.mark.parametrize("megabytes", [30, 160], ids=["to load the model", "to train it"])
def test_too_little_memory_is_one_line(megabytes: int, tiny_model: TinyModel, tmp_path: Path) -> None:
    small = AutoConfig.from_pretrained(tiny_model("text"))
    small.intermediate_size = 50_000
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model("text")).save_pretrained(tmp_path / "model")
    cache = make_cache(tmp_path, tmp_path / "model", text_records(12))
    config = make_config(cache, tmp_path / "model", tmp_path / "run")
    told = told_with_little_memory(config, megabytes << 20)
    assert told.startswith("out of memory: ")
    assert "\n" not in told


def told_with_little_memory(config: TrainConfig, free_bytes: int) -> str:
    """The error of a run in a process that may grow by so much: one of its own, which has no memory to spare."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_confined, args=(there, config, free_bytes))
    process.start()
    there.close()
    try:
        told: str = here.recv()
    finally:
        process.join()
    return told


def _confined(answer: Connection, config: TrainConfig, free_bytes: int) -> None:
    run(config, dry_run=True, say=lambda line: None)  # imports what there is to import
    import kto_train.trainer  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + free_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        run(config, dry_run=False, say=lambda line: None)
    except ConfigError as error:
        answer.send(error.what)
    answer.close()


def test_a_data_worker_that_is_killed_is_one_line_and_leaves_the_checkpoint_before_whole(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 8))
    kto = {"max_steps": 100, "save_steps": 1, "dataloader_num_workers": 1}
    config = make_config(cache, tiny_model("llava"), tmp_path / "run", reference="live", kto=kto)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_losing_a_worker, args=(there, config))
    process.start()
    there.close()
    what, hint = here.recv()
    process.join()
    assert re.fullmatch(r"a process .* was lost: DataLoader worker .* (is killed by .*|exited unexpectedly)", what)
    assert hint.startswith("kto.dataloader_num_workers: 0")
    checkpoint, _ = last_whole(tmp_path / "run")
    assert checkpoint is not None


def _losing_a_worker(answer: Connection, config: TrainConfig) -> None:
    """The error of a run whose workers are killed at the first image that they open once there is a checkpoint."""
    trains, sealed = os.getpid(), Path(config.output_dir, "checkpoint-1", "checkpoint.json")
    multiprocessing.set_start_method("fork", force=True)  # so that the workers have the hook

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and os.getpid() != trains and str(arguments[0]).endswith(".png") and sealed.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    try:
        run(config, dry_run=False, say=lambda line: None)
    except ConfigError as error:
        answer.send((error.what, error.hint))
    answer.close()

"""Runs that die where it hurts: each in a forked process that kills itself as it opens a given file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import make_cache, text_records
from conftest import TinyModel
from safetensors.torch import load_file
from test_train_cli import make_config, metrics

from kto_data.errors import ConfigError, ExitCode
from kto_train import reference_pass
from kto_train.train import run

pytestmark = pytest.mark.slow


def killed(action: Callable[[], object], *, at_opening: str) -> None:
    """Run `action` in a process that is killed when it opens a file whose path contains `at_opening`."""

    def watched() -> None:
        def kill(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and at_opening in str(arguments[0]):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        action()

    process = multiprocessing.get_context("fork").Process(target=watched)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def text_cache(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("killed"), tiny_model("text"), text_records(12))


@pytest.fixture(scope="module")
def whole_run(text_cache: Path, tiny_model: TinyModel) -> Path:
    output = text_cache.parent / "whole"
    assert run(made(text_cache, tiny_model, output), dry_run=False, say=lambda line: None) == ExitCode.OK
    return output


def made(cache: Path, tiny_model: TinyModel, output: Path, **overrides: Any) -> Any:
    kto = {"max_steps": 5, "save_steps": 2, "save_total_limit": 1}
    return make_config(cache, tiny_model("text"), output, kto=kto, **overrides)


def assert_same_run(found: Path, expected: Path) -> None:
    weights, expected_weights = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert [name for name, value in expected_weights.items() if not torch.equal(value, weights[name])] == []
    assert metrics(found) == metrics(expected)


@pytest.mark.parametrize("file", ["config.json", "trainer_state.json", "window_0.json", ".checkpoint.json.tmp"])
def test_a_run_that_is_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    file: str, whole_run: Path, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    config = made(text_cache, tiny_model, tmp_path / "run")
    killed(lambda: run(config, dry_run=False, say=lambda line: None), at_opening=f"checkpoint-4/{file}")
    said: list[str] = []
    again = config.model_copy(update={"resume": "auto"})
    assert run(again, dry_run=False, say=said.append) == ExitCode.OK
    assert any(
        line.endswith("checkpoint-4 is passed over: it has no checkpoint.json: it was not finished") for line in said
    )
    assert f"resumed from {tmp_path}/run/checkpoint-2, step 2" in said
    assert_same_run(tmp_path / "run", whole_run)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]


def test_a_run_that_is_killed_after_its_last_step_trains_no_other(
    whole_run: Path, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """In the middle of an epoch, where transformers would."""
    config = made(text_cache, tiny_model, tmp_path / "run")
    killed(lambda: run(config, dry_run=False, say=lambda line: None), at_opening="/run/config.json")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = config.model_copy(update={"resume": "auto"})
    assert run(again, dry_run=False, say=lambda line: None) == ExitCode.OK
    assert_same_run(tmp_path / "run", whole_run)
    shorter = again.model_copy(update={"kto": {**again.kto, "max_steps": 4}})
    with pytest.raises(ConfigError, match="checkpoint-5 is of step 5, and the run is to have 4"):
        run(shorter, dry_run=False, say=lambda line: None)


def test_a_killed_computation_of_the_reference_is_gone_on_with(
    whole_run: Path, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_pass, "KEEP_SECONDS", 0.0)
    cache = make_cache(tmp_path, tiny_model("text"), text_records(12))
    config = made(cache, tiny_model, tmp_path / "run")
    killed(lambda: run(config, dry_run=False, say=lambda line: None), at_opening=".building-")
    parts = sorted((cache / "reference").glob("*.parts/*.npy"))
    assert len(parts) == 3
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    said: list[str] = []
    again = config.model_copy(update={"resume": "auto"})
    assert run(again, dry_run=False, say=said.append) == ExitCode.OK
    title = "reference log-probabilities of train"
    assert f"{title}: 1 damaged files of an unfinished run are passed over" in said
    assert f"{title}: 4 rows of an unfinished run are kept" in said
    assert metrics(tmp_path / "run") == metrics(whole_run)
    assert list((cache / "reference").glob("*.parts")) == []

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kto_train.checkpoint import flaw, is_model_alone, last_to_resume, last_whole, seal, step_of


def make_checkpoint(output: Path, step: int, *more: str) -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "shards" / "0.bin").write_bytes(b"optimizer")
    for name in more:
        (folder / name).touch()
    seal(folder, step)
    return folder


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: None, ""),
        (lambda folder: (folder / "checkpoint.json").unlink(), "it has no checkpoint.json: it was not finished"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "its checkpoint.json cannot be read"),
        (lambda folder: (folder / "shards" / "0.bin").unlink(), "its shards/0.bin is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"wei"), "its model.safetensors has 3 bytes of 7"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"weighty"),
            "its model.safetensors has other bytes than when it was saved",
        ),
    ],
    ids=["whole", "no list", "list cut short", "missing file", "file cut short", "file changed"],
)
def test_what_is_wrong_with_a_checkpoint_is_named(damage: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 2)
    damage(folder)
    assert flaw(folder) == told


@pytest.mark.parametrize(
    ("files", "is_alone"),
    [
        (["optimizer.pt", "scheduler.pt", "rng_state.pth"], False),
        (["global_step2/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest", "rng_state_0.pth"], False),
        (["optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata", "rng_state_1.pth"], False),
        (["config.json", "trainer_state.json", "window_0.json"], True),
    ],
    ids=["plain", "DeepSpeed", "FSDP", "save_only_model"],
)
def test_a_model_alone_is_told_from_what_can_be_gone_on_from(files: list[str], is_alone: bool, tmp_path: Path) -> None:
    for name in ("model.safetensors", *files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    seal(tmp_path, 2)
    assert is_model_alone(tmp_path) is is_alone


def test_the_last_whole_checkpoint_is_found_and_those_passed_over_are_named(tmp_path: Path) -> None:
    for step in (2, 10, 30):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-30" / "checkpoint.json").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    found, passed_over = last_whole(tmp_path)
    assert found == tmp_path / "checkpoint-10"
    assert step_of(found) == 10
    assert passed_over == [f"{tmp_path}/checkpoint-30 is passed over: it has no checkpoint.json: it was not finished"]


def test_a_checkpoint_of_the_model_alone_is_passed_over_for_an_older_one_that_is_all(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2, "rng_state.pth")
    for step in (10, 30):
        make_checkpoint(tmp_path, step)
    found, passed_over = last_to_resume(tmp_path)
    assert found == tmp_path / "checkpoint-2"
    assert passed_over == [
        f"{tmp_path}/checkpoint-{step} is passed over: it holds the model alone" for step in (30, 10)
    ]
    assert last_whole(tmp_path) == (tmp_path / "checkpoint-30", [])


def test_without_a_checkpoint_none_is_found(tmp_path: Path) -> None:
    assert last_whole(tmp_path / "none") == (None, [])

"""Checkpoints that say of themselves whether they are whole.

    RUN/checkpoint-STEP/…                  what transformers saves, and what was added up since the last log
    RUN/checkpoint-STEP/checkpoint.json    every file of it with its size and hash, written last

A run that is killed in the middle of a save leaves a folder without the list, a full disk one that may lack more; a
crash of the machine can leave files whose sizes are right and whose bytes are not.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

LIST_NAME = "checkpoint.json"

_PREFIX = "checkpoint-"
_RANDOM_STATE = "rng_state"  # how the names of transformers' files of it begin: one file, or one a rank
_BLOCK_BYTES = 1 << 20


def seal(checkpoint: Path, step: int) -> None:
    """Write the list of the files in `checkpoint`: from here on it counts as whole. Raises `OSError`."""
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "xxh3": file_hash(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    temporary = checkpoint / f".{LIST_NAME}.tmp"
    temporary.write_text(json.dumps({"step": step, "files": files}, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, checkpoint / LIST_NAME)


def flaw(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, naming the file; empty where it is whole."""
    try:
        files = _listed(checkpoint)["files"]
    except FileNotFoundError:
        return f"it has no {LIST_NAME}: it was not finished"
    except (OSError, ValueError, KeyError):
        return f"its {LIST_NAME} cannot be read"
    for name, listed in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"its {name} is missing"
        if path.stat().st_size != listed["bytes"]:
            return f"its {name} has {path.stat().st_size:,} bytes of {listed['bytes']:,}"
        if file_hash(path) != listed["xxh3"]:
            return f"its {name} has other bytes than when it was saved"
    return ""


def is_model_alone(checkpoint: Path) -> bool:
    """Whether a whole checkpoint holds nothing to go on from, as `save_only_model` leaves it.

    The optimizer's states are in one file, in a folder with a file a rank (DeepSpeed) or in one of torch's own (FSDP);
    random states are beside them in every case.
    """
    return not any(name.startswith(_RANDOM_STATE) for name in _listed(checkpoint)["files"])


def last_whole(output: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint with the highest step, and what is wrong with those after it that were passed over."""
    return _last(output, flaw)


def last_to_resume(output: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint with the highest step that can be gone on from, and what is wrong with those after it."""
    return _last(output, _obstacle)


def _obstacle(checkpoint: Path) -> str:
    """Why a checkpoint cannot be gone on from; empty where it can."""
    return flaw(checkpoint) or ("it holds the model alone" if is_model_alone(checkpoint) else "")


def _last(output: Path, wrong_with: Callable[[Path], str]) -> tuple[Path | None, list[str]]:
    steps = _by_step(output)
    passed_over: list[str] = []
    for step in sorted(steps, reverse=True):
        found = wrong_with(steps[step])
        if not found:
            return steps[step], passed_over
        passed_over.append(f"{steps[step]} is passed over: {found}")
    return None, passed_over


def _by_step(output: Path) -> dict[int, Path]:
    """The checkpoints in the folder of a run, whole or not."""
    return {
        int(path.name.removeprefix(_PREFIX)): path
        for path in output.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit()
    }


def is_sealed(checkpoint: Path) -> bool:
    """Whether a checkpoint was finished; whether it is whole still, only `flaw` tells."""
    return (checkpoint / LIST_NAME).is_file()


def sealed_steps(output: Path) -> list[int]:
    """The steps of the checkpoints that were finished."""
    return sorted(step for step, path in _by_step(output).items() if is_sealed(path))


def remove_unfinished(output: Path, step: int) -> None:
    """Remove the checkpoint of `step` unless it is whole: its files take the room that others need."""
    checkpoint = output / f"{_PREFIX}{step}"
    if flaw(checkpoint):
        shutil.rmtree(checkpoint, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The number of steps that a whole checkpoint has behind it."""
    step: int = _listed(checkpoint)["step"]
    return step


def file_hash(path: Path) -> str:
    """XXH3 of a file's bytes, 128 bits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _listed(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / LIST_NAME).read_bytes())
    return found

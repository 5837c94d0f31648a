"""What a run was made of (`run.json`), and whether it can be gone on with."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_data.errors import ConfigError, InputError
from kto_data.manifest import differing_parts
from kto_train.config import TrainConfig

RUN_NAME = "run.json"
CONFIG_NAME = "train.yaml"

_CHECKPOINT = "checkpoint-"
_STATE = "trainer_state.json"  # transformers writes it last: a checkpoint with it is whole
_WITHOUT_EFFECT = (
    "logging_", "save_", "eval_", "do_eval", "report_to", "dataloader_", "push_", "hub_", "run_name", "disable_tqdm",
    "num_train_epochs", "max_steps", "use_cpu",
)  # fmt: skip
"""How those `KTOConfig` fields begin that do not change a step. A run may be made longer; its schedule changes then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. `matters` is what every step depends on, by name: a resumed run must have the same."""

    matters: dict[str, Any]
    about: dict[str, Any]  # for people: versions, groups, balance
    status: str = "running"  # then "finished", "interrupted", "diverged" or "failed"

    def write(self, output: Path) -> None:
        """Write the record; raises `InputError` where that fails."""
        value = {"status": self.status, "matters": self.matters, **self.about}
        temporary = output / f".{RUN_NAME}.tmp"
        try:
            temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, output / RUN_NAME)
        except OSError as error:
            raise InputError(f"cannot write {output / RUN_NAME}: {error.strerror}", hint="free some space") from None


def what_matters(
    config: TrainConfig,
    *,
    cache_fingerprint: str,
    num_ranks: int,
    weights: tuple[float, float],
    image_backend: str | None,
) -> dict[str, Any]:
    """The parts of a run that every step depends on."""
    kto = {key: value for key, value in config.kto.items() if not key.startswith(_WITHOUT_EFFECT)}
    return {
        "cache": cache_fingerprint,
        "model": config.model,
        "seed": config.seed,
        "lora": config.lora,
        "desirable weight": weights[0],
        "undesirable weight": weights[1],
        "devices": num_ranks,
        "image processor": image_backend,
        **{f"kto.{key}": value for key, value in sorted(kto.items())},
    }


def checkpoint_to_resume(config: TrainConfig, matters: dict[str, Any]) -> Path | None:
    """The checkpoint that `resume` asks for; None where it asks for none, or `auto` finds none.

    Raises `InputError` where a named checkpoint is not whole, and `ConfigError` where the run that left it had other
    settings, naming them with both values.
    """
    if config.resume is None:
        return None
    output = Path(config.output_dir)
    checkpoint = last_checkpoint(output) if config.resume == "auto" else Path(config.resume)
    if checkpoint is None:
        return None
    if not is_whole(checkpoint):
        raise InputError(f"{checkpoint} is not a whole checkpoint", hint="--resume auto finds the last whole one")
    _check_same(checkpoint.parent / RUN_NAME, matters)
    return checkpoint


def last_checkpoint(output: Path) -> Path | None:
    """The whole checkpoint with the highest step."""
    steps = {
        int(path.name.removeprefix(_CHECKPOINT)): path
        for path in output.glob(f"{_CHECKPOINT}*")
        if path.name.removeprefix(_CHECKPOINT).isdigit() and is_whole(path)
    }
    return steps[max(steps)] if steps else None


def is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written."""
    try:
        json.loads((checkpoint / _STATE).read_bytes())
    except (OSError, ValueError):
        return False
    return True


def remove_unfinished(output: Path, step: int) -> None:
    """Remove the checkpoint of `step` unless it is whole: its files take the room that others need."""
    checkpoint = output / f"{_CHECKPOINT}{step}"
    if not is_whole(checkpoint):
        shutil.rmtree(checkpoint, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The number of steps that a whole checkpoint has behind it."""
    step: int = json.loads((checkpoint / _STATE).read_bytes())["global_step"]
    return step


def _check_same(record: Path, matters: dict[str, Any]) -> None:
    try:
        then = json.loads(record.read_bytes())["matters"]
    except FileNotFoundError:
        return  # a checkpoint that was moved away from its run: nothing to compare with
    except (ValueError, KeyError, OSError):
        raise InputError(f"{record} cannot be read", hint="start anew in another output folder") from None
    different = differing_parts(then, json.loads(json.dumps(matters)))
    if different:
        told = "; ".join(f"{name} was {old!r} and is {new!r}" for name, old, new in different)
        raise ConfigError(
            f"the run in {record.parent} cannot be gone on with: {told}",
            hint="use the settings in its train.yaml, or another output folder",
        )

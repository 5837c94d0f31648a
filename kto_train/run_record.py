"""What a run was made of (`run.json`), and whether it can be gone on with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from kto_data.errors import ConfigError, InputError
from kto_data.manifest import differing_parts
from kto_train.checkpoint import file_hash, flaw, is_model_alone, last_to_resume, last_whole
from kto_train.checks import weight_files
from kto_train.config import TrainConfig

RUN_NAME = "run.json"
CONFIG_NAME = "train.yaml"

_WITHOUT_EFFECT = (
    "logging_", "save_", "eval_", "do_eval", "report_to", "dataloader_", "push_", "hub_", "run_name", "disable_tqdm",
    "per_device_eval_batch_size", "num_train_epochs", "max_steps", "use_cpu",
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
    loss_weights: tuple[float, float],
    image_backend: str | None,
) -> dict[str, Any]:
    """The parts of a run that every step depends on; reads the files of the model's weights."""
    kto = {key: value for key, value in config.kto.items() if not key.startswith(_WITHOUT_EFFECT)}
    return {
        "cache": cache_fingerprint,
        "model": config.model,
        "weights": weights_identity(config.model),
        "seed": config.seed,
        "reference": config.reference,
        "group_by_length": config.group_by_length,
        "lora": config.lora,
        "freeze": config.freeze,
        "quantization": config.quantization,
        "deepspeed": config.deepspeed,
        "desirable weight": loss_weights[0],
        "undesirable weight": loss_weights[1],
        "devices": num_ranks,
        "image processor": image_backend,
        **{f"kto.{key}": value for key, value in sorted(kto.items())},
    }


def weights_identity(model: str) -> str:
    """What a model's weights are known by: a hash of their files, or the commit of a model of the hub."""
    from transformers.utils import cached_file  # loading it takes longer than finding out that torch is missing

    folder = Path(model)
    if not folder.is_dir():
        return Path(cached_file(model, "config.json")).parent.name  # a snapshot's folder is named after its commit
    digest = xxhash.xxh3_64()
    for path in weight_files(folder):
        digest.update(f"{path.name} {file_hash(path)} ".encode())
    return digest.hexdigest()


def checkpoint_to_resume(config: TrainConfig, matters: dict[str, Any]) -> tuple[Path | None, list[str]]:
    """The checkpoint that `resume` asks for, and what is wrong with those passed over.

    None where it asks for none, or `auto` finds none. Raises `InputError` where a named checkpoint is not whole, or it
    or all that `auto` finds hold the model alone, and `ConfigError` where the run that left it had other settings,
    naming them with both values.
    """
    if config.resume is None:
        return None, []
    passed_over: list[str] = []
    if config.resume == "auto":
        checkpoint, passed_over = last_to_resume(Path(config.output_dir))
        if checkpoint is None:
            checkpoint, _ = last_whole(Path(config.output_dir))  # to be refused below, rather than trained over
        if checkpoint is None:
            return None, passed_over
    else:
        checkpoint = Path(config.resume)
        found = flaw(checkpoint) if checkpoint.is_dir() else "there is no such folder"
        if found:
            raise InputError(
                f"{checkpoint} is not a whole checkpoint: {found}", hint="--resume auto finds the last whole one"
            )
    if is_model_alone(checkpoint):
        raise InputError(
            f"{checkpoint} holds the model alone: kto.save_only_model left out what a run goes on from",
            hint="start anew in another output folder; the model in it is one to start from",
        )
    _check_same(checkpoint.parent / RUN_NAME, matters)
    return checkpoint, passed_over


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

"""What the checkpoints of a run will take of the disk, and whether it has that much."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path
from typing import Any

from kto_train.checkpoint import sealed_steps
from kto_train.config import TrainConfig

_COPIES = 3  # a checkpoint of all weights holds them once and AdamW's two averages


def lack_of_room(config: TrainConfig, args: Any, num_steps: int) -> Iterator[str]:
    """What is to be said where the checkpoints of a run of so many steps will not find room."""
    there = sealed_steps(Path(config.output_dir))
    number = _num_to_come(args, num_steps, _steps_done(config, there), len(there))
    needed = number * _checkpoint_bytes(config, args)
    free = shutil.disk_usage(nearest_folder(Path(config.output_dir))).free  # which may be a disk of its own
    if needed > free:
        kept = f" beside the {len(there):,} that are there" if there else ", which are kept at a time,"
        told = "a checkpoint takes" if number == 1 else f"{number:,} checkpoints{kept} take"
        fewer = "; kto.save_total_limit keeps fewer" if number > 1 and not args.save_total_limit else ""
        yield f"{told} about {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free{fewer}"


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _steps_done(config: TrainConfig, there: list[int]) -> int:
    """How many steps a run that is gone on with has behind it, by the names of its checkpoints alone."""
    if config.resume is None:
        return 0
    if config.resume == "auto":
        return max(there, default=0)
    named = Path(config.resume)
    return next((step for step in sealed_steps(named.parent) if named.name == f"checkpoint-{step}"), 0)


def _num_to_come(args: Any, num_steps: int, done: int, num_there: int) -> int:
    """How many checkpoints there will be at a time, at most, beside those that are there.

    An older one goes when a newer one is whole.
    """
    if done >= num_steps:
        return 0
    is_best = args.save_strategy == "best"
    strategy, every = (args.eval_strategy, args.eval_steps) if is_best else (args.save_strategy, args.save_steps)
    made = 1  # by a run that is stopped, if by none other
    if strategy == "steps" and every > 0:  # with 0 transformers saves none
        every = every if every >= 1 else ceil(every * num_steps)
        made = ceil(num_steps / every) - int(done // every)
    elif strategy == "epoch" and args.max_steps <= 0:
        made = ceil(args.num_train_epochs) - int(args.num_train_epochs * done / num_steps)
    return min(made, max(args.save_total_limit + 1 - num_there, 1)) if args.save_total_limit else made


def _checkpoint_bytes(config: TrainConfig, args: Any) -> int:
    """Bytes of a checkpoint of all weights; 0 of an adapter, which is small, and of a model that is not here yet."""
    if config.lora is not None or not Path(config.model).is_dir():
        return 0
    import torch
    from safetensors import SafetensorError, safe_open

    in_files = num_weights = 0
    for path in Path(config.model).glob("*.safetensors"):
        in_files += path.stat().st_size
        try:
            with safe_open(path, framework="numpy") as file:
                num_weights += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except SafetensorError:  # which reading the model tells
            return 0
    dtype = (args.model_init_kwargs or {}).get("dtype", "float32")  # TRL's default, whatever the files are of
    weights = in_files if dtype == "auto" else num_weights * getattr(torch, dtype).itemsize
    if config.deepspeed is not None or args.fsdp:  # they keep what is trained in full
        weights = max(weights, num_weights * torch.float32.itemsize)
    return weights if args.save_only_model else _COPIES * weights

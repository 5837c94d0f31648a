"""What the processes of a training must agree on, wherever they run."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from kto_data import __version__
from kto_data.errors import ConfigError
from kto_data.manifest import differing_parts
from kto_train.checkpoint import is_sealed
from kto_train.config import TrainConfig

_OF_A_MACHINE = ("model", "cache", "output_dir", "image_root", "resume", "kto")
"""Where things lie, which each machine has its own way to say; what is under `kto` is compared key by key."""
_LOADERS = "dataloader_"  # how those keys under `kto` begin that are for each machine to say


def what_is_shared(config: TrainConfig, cache_fingerprint: str) -> dict[str, Any]:
    """What every process of a training must have been given alike, by name."""
    kto = {f"kto.{key}": value for key, value in config.kto.items() if not key.startswith(_LOADERS)}
    return {
        "cache": cache_fingerprint,
        **config.model_dump(mode="json", exclude=set(_OF_A_MACHINE)),
        **kto,
        "ktodata": __version__,
        **{name: version(name) for name in ("torch", "transformers", "trl")},
    }


def check_alike(shared: dict[str, Any]) -> None:
    """Raises `ConfigError` in every process where one was given other settings than the first: they would wait for each
    other for ever, or train apart."""
    given = gather_object([shared])
    for rank, other in enumerate(given):
        different = differing_parts(given[0], other)
        if different:
            told = "; ".join(
                f"{name} is {first!r} in process 0 and {here!r} in {rank}" for name, first, here in different
            )
            raise ConfigError(
                f"the processes of the training do not have the same settings: {told}",
                hint="the same configuration, options and versions on each machine",
            )


def agreed_checkpoint(found: Path | None) -> Path | None:
    """What the first process has found to go on from, told to all of them.

    Raises `ConfigError` in every process where one does not have it.
    """
    agreed = [found]
    broadcast_object_list(agreed)
    checkpoint = agreed[0]
    if checkpoint is None:
        return None
    lacking = [rank for rank, has_it in enumerate(gather_object([is_sealed(checkpoint)])) if not has_it]
    if lacking:
        raise ConfigError(
            f"the training cannot be gone on with from {checkpoint}: process {lacking[0]} does not find it",
            hint="an output folder that all machines share",
        )
    return checkpoint

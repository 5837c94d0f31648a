"""Log-probabilities of the reference model, computed once and kept beside the cache.

They depend on the cache, the weights and the groups (a KL partner is a matter of the group), and on nothing that is
tuned from run to run: a sweep over beta or the learning rate computes them once.

    REFERENCE/KEY/reference.json    what they were computed from, written last
    REFERENCE/KEY/…                 an Arrow dataset: `ref_logps` and, with a KL term, `ref_KL_logps`, in cache order
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate.utils import is_peft_model
from datasets import Dataset, Features, Value, load_from_disk

from kto_data.errors import InputError
from kto_data.manifest import differing_parts, fingerprint
from kto_train.columns import REF_KL_LOGPS, REF_LOGPS

_PARTS_NAME = "reference.json"

Parts = dict[str, Any]
"""What the values depend on, by name."""


@dataclass(frozen=True, slots=True)
class ReferenceStore:
    """A folder of reference log-probabilities, one folder a key."""

    folder: Path

    def find(self, parts: Parts) -> Dataset | None:
        """The values computed from exactly `parts`, or None."""
        entry = self.entry(parts)
        if not (entry / _PARTS_NAME).is_file():
            return None
        return load_from_disk(str(entry))

    def entry(self, parts: Parts) -> Path:
        """Where the values of `parts` are, or would be."""
        return self.folder / fingerprint(parts)[:16]

    def stale(self, parts: Parts) -> list[str]:
        """In what the stored values of this split closest to `parts` differ, by name; empty where there are none."""
        stored = [json.loads(path.read_bytes()) for path in sorted(self.folder.glob(f"*/{_PARTS_NAME}"))]
        differences = [
            [name for name, _, _ in differing_parts(old, parts)] for old in stored if old["split"] == parts["split"]
        ]
        return min(differences, key=len, default=[])

    def save(self, parts: Parts, columns: dict[str, list[float]]) -> None:
        """Write the values whole or not at all; raises `InputError` where that fails."""
        entry = self.entry(parts)
        building = entry.with_name(f"{entry.name}.building")
        features = Features({name: Value("float32") for name in columns})
        try:
            shutil.rmtree(building, ignore_errors=True)
            Dataset.from_dict(columns, features=features).save_to_disk(str(building))
            (building / _PARTS_NAME).write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n")
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(building, entry)
        except OSError as error:
            raise InputError(
                f"cannot write the reference log-probabilities to {entry}: {error.strerror or error}",
                hint="free space there, or set `reference: live`",
            ) from None


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of the weights that the reference model has: those of an adapter, which the reference lacks, left out."""
    base: Any = model.base_model if is_peft_model(model) else None
    adapter = None if base is None else base.prefix
    state = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if adapter is None or adapter not in name
    }
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def compute(
    batches: Iterable[tuple[list[int], dict[str, torch.Tensor]]],
    log_probs: Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor | None]],
) -> list[tuple[int, float, float | None]]:
    """(row, log-probability, KL log-probability or None) of each row of `batches` of (rows, tensors)."""
    found: list[tuple[int, float, float | None]] = []
    for rows, batch in batches:
        own, kl = log_probs(batch)
        kl_values: list[float | None] = [None] * len(rows) if kl is None else kl.float().tolist()
        found += zip(rows, own.float().tolist(), kl_values, strict=True)
    return found


def as_columns(found: list[tuple[int, float, float | None]]) -> dict[str, list[float]]:
    """The columns, in row order, of what `compute` found on all ranks."""
    ordered = sorted(found)
    assert [row for row, _, _ in ordered] == list(range(len(ordered)))
    columns = {REF_LOGPS: [own for _, own, _ in ordered]}
    kl = [value for _, _, value in ordered if value is not None]
    if kl:
        assert len(kl) == len(ordered)
        columns[REF_KL_LOGPS] = kl
    return columns

"""Log-probabilities of the reference model, computed once and kept beside the cache.

They depend on the cache, the weights and the groups (a KL partner is a matter of the group), and on nothing that is
tuned from run to run: a sweep over beta or the learning rate computes them once.

    REFERENCE/KEY/reference.json    what they were computed from, how many they are and their hash, written last
    REFERENCE/KEY/…                 an Arrow dataset: `ref_logps` and, with a KL term, `ref_KL_logps`, in cache order
    REFERENCE/KEY.parts/HASH.npy    values of some rows, of a computation that is not finished
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from accelerate.utils import is_peft_model
from datasets import Dataset, Features, Value, load_from_disk
from numpy.typing import NDArray

from kto_data.errors import InputError
from kto_data.manifest import differing_parts, fingerprint
from kto_train.columns import REF_KL_LOGPS, REF_LOGPS

_ENTRY_NAME = "reference.json"
_TRIES = 3  # to put values in the place of damaged ones, where another process may be at the same
_OWN, _KL = "own", "kl"
_DTYPE = np.dtype([("row", "<i8"), (_OWN, "<f4"), (_KL, "<f4")])

Parts = dict[str, Any]
"""What the values depend on, by name."""
Values = NDArray[np.void]
"""(row, log-probability, log-probability of the KL sequence) of some rows; without a KL term the last is 0."""


@dataclass(frozen=True, slots=True)
class ReferenceStore:
    """A folder of reference log-probabilities, one folder a key."""

    folder: Path

    def find(self, parts: Parts) -> Dataset | None:
        """The values computed from exactly `parts`, or None; also where those on disk are not those that were saved."""
        entry = self.entry(parts)
        try:
            saved = json.loads((entry / _ENTRY_NAME).read_bytes())
            found = load_from_disk(str(entry))
        except (OSError, ValueError):  # not there, or cut short
            return None
        return found if _digest(found) == saved["hash"] else None

    def entry(self, parts: Parts) -> Path:
        """Where the values of `parts` are, or would be."""
        return self.folder / fingerprint(parts)[:16]

    def unfinished(self, parts: Parts) -> Unfinished:
        """What is computed of the values of `parts`."""
        entry = self.entry(parts)
        return Unfinished(entry.with_name(f"{entry.name}.parts"))

    def stale(self, parts: Parts) -> list[str]:
        """In what the stored values of this split closest to `parts` differ, by name; empty where there are none."""
        stored = [json.loads(path.read_bytes())["parts"] for path in sorted(self.folder.glob(f"*/{_ENTRY_NAME}"))]
        differences = [
            [name for name, _, _ in differing_parts(old, parts)] for old in stored if old["split"] == parts["split"]
        ]
        closest = min(differences, key=len, default=[])
        # Groups differ because something else does; alone, because they are made in another way.
        return [name for name in closest if name != "groups"] or closest

    def save(self, parts: Parts, columns: dict[str, list[float]]) -> None:
        """Write the values whole or not at all; where another process has written them meanwhile, its own stay.

        Raises `InputError` where that fails.
        """
        entry = self.entry(parts)
        building = entry.with_name(f"{entry.name}.building-{_unique()}")
        features = Features({name: Value("float32") for name in columns})
        dataset = Dataset.from_dict(columns, features=features)
        saved = {"parts": parts, "rows": len(dataset), "hash": _digest(dataset)}
        try:
            dataset.save_to_disk(str(building))
            (building / _ENTRY_NAME).write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
            self._publish(building, parts)
        except OSError as error:
            raise _cannot_write(entry, error) from None
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _publish(self, building: Path, parts: Parts) -> None:
        entry = self.entry(parts)
        for tries_left in reversed(range(_TRIES)):
            try:
                os.replace(building, entry)
                return
            except OSError:
                if self.find(parts) is not None:  # of another process, and perhaps read already
                    return
                if not tries_left:
                    raise
                shutil.rmtree(entry, ignore_errors=True)  # damaged


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Values of some rows on disk, so that a computation that is killed can be gone on with.

    The name of each file is the hash of its bytes: one that was cut short or changed is known by it.
    """

    folder: Path

    def read(self) -> tuple[Values, int]:
        """The values so far, and how many files were passed over because they are damaged."""
        found = [no_values()]
        damaged = 0
        for path in sorted(self.folder.glob("*.npy")):
            data = path.read_bytes()
            if _hash(data) == path.stem:
                found.append(np.load(io.BytesIO(data), allow_pickle=False))
            else:
                damaged += 1
        return np.concatenate(found), damaged

    def append(self, values: Values) -> None:
        """Keep more values; raises `InputError` where that fails."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        data = buffer.getvalue()
        path = self.folder / f"{_hash(data)}.npy"
        temporary = path.with_suffix(f".tmp-{_unique()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _cannot_write(self.folder, error) from None

    def remove(self) -> None:
        """Forget them: the whole is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _unique() -> str:
    """No process number: on a file system that machines share, two of them may have the same one."""
    return os.urandom(6).hex()


def no_values() -> Values:
    """Values of no row."""
    return np.empty(0, _DTYPE)


def as_values(rows: Sequence[int], own: torch.Tensor, kl: torch.Tensor | None) -> Values:
    """The values of `rows` as a model's batch gave them."""
    found = np.zeros(len(rows), _DTYPE)
    found["row"], found[_OWN] = rows, own.float().cpu().numpy()
    if kl is not None:
        found[_KL] = kl.float().cpu().numpy()
    return found


def one_a_row(values: Values) -> Values:
    """`values` in row order, each row once."""
    _, first = np.unique(values["row"], return_index=True)
    return values[first]


def as_columns(values: Values, num_rows: int, *, with_kl: bool) -> dict[str, list[float]]:
    """The columns, in row order, of the values of all rows."""
    ordered = one_a_row(values)
    assert ordered["row"].tolist() == list(range(num_rows))
    columns = {REF_LOGPS: ordered[_OWN].tolist()}
    return columns | {REF_KL_LOGPS: ordered[_KL].tolist()} if with_kl else columns


def not_finite(values: Values) -> list[int]:
    """The rows with a value that is no number."""
    rows: list[int] = values["row"][~(np.isfinite(values[_OWN]) & np.isfinite(values[_KL]))].tolist()
    return rows


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of the weights that the reference model has.

    Those of the adapter that is trained, which the reference lacks, are left out; an adapter called `ref`, which TRL
    makes of one that was trained before, belongs to the reference.
    """
    base: Any = model.base_model if is_peft_model(model) else None
    adapter = None if base is None else base.prefix
    state = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if adapter is None or adapter not in name or ".ref." in name
    }
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        tensor = getattr(tensor, "ds_tensor", tensor)  # under ZeRO-3 the part of it that this rank holds
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(dataset: Dataset) -> str:
    columns = dataset.with_format("numpy")
    return _hash(b"".join(name.encode() + columns[name][:].tobytes() for name in sorted(dataset.column_names)))


def _hash(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def _cannot_write(place: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write the reference log-probabilities to {place}: {error.strerror or error}",
        hint="free space there, or set `reference: live`",
    )

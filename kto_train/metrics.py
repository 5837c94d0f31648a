"""`metrics.jsonl`: one JSON object a log, with TRL's names; a resumed run goes on in the same file.

Besides what TRL logs, an entry of training steps has `tokens_per_second`, `data_wait_share` and, where a watch saw
something, `warnings`: what it says, by its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kto_data.writing import write_whole

METRICS_NAME = "metrics.jsonl"
WARNINGS = "warnings"

Entry = dict[str, Any]

PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "eval_loss"),
    "rewards": ("rewards/chosen", "rewards/rejected"),
    "margin": ("rewards/margins",),
    "KL": ("kl",),
    "learning rate": ("learning_rate",),
    "gradient norm": ("grad_norm",),
}
"""What is drawn: title, and the keys of its curves."""

CURVES = {"rewards/chosen": "desirable", "rewards/rejected": "undesirable", "loss": "train", "eval_loss": "eval"}
"""What a curve is called among others of its panel."""


def append_entry(output: Path, entry: Entry) -> None:
    """Add one entry to the file."""
    with (output / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def entry_of(step: int, logs: Mapping[str, Any]) -> Entry:
    """A log as an entry; JSON has no NaN and no infinity: null stands for both."""
    return {"step": step, **{key: _json_number(value) for key, value in logs.items()}}


def read_metrics(output: Path) -> list[Entry]:
    """The entries of the file; a last line that was cut short by a crash is left out."""
    path = output / METRICS_NAME
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def cut_after(output: Path, step: int) -> list[Entry]:
    """Leave out of the file what was logged after `step`, from which a run is gone on with, and what a run that was
    stopped said at its end; returns what stays."""
    kept = [entry for entry in read_metrics(output) if entry["step"] <= step and "train_runtime" not in entry]
    write_whole(output / METRICS_NAME, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
    return kept


def curves_of(entries: list[Entry]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel title -> curve -> (step, value): what there is to draw. A panel without a value is left out."""
    found = {
        title: {
            CURVES.get(key, title): [(e["step"], e[key]) for e in entries if e.get(key) is not None] for key in keys
        }
        for title, keys in PANELS.items()
    }
    kept = {title: {name: points for name, points in curves.items() if points} for title, curves in found.items()}
    return {title: curves for title, curves in kept.items() if curves}


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

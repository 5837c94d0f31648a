"""What a trainer has added up since its last log, kept with each checkpoint.

transformers forgets it: after resuming between two logs, the next one is a mean over fewer steps than it would have
been, and TRL counts tokens from zero again. With this, a resumed run logs what an unbroken one logs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trl import KTOTrainer


def save_window(trainer: KTOTrainer, checkpoint: Path) -> None:
    """Write this rank's sums to `checkpoint`. Raises `OSError`."""
    sums = {
        "loss": trainer._tr_loss.item(),
        "loss_before": trainer._total_loss_scalar,
        "first_step": trainer._globalstep_last_logged,
        "metrics": trainer._metrics["train"],
        "tokens": vars(trainer).get("_total_train_tokens", 0),  # older TRL counts none
    }
    _file(trainer, checkpoint).write_text(json.dumps(sums), encoding="utf-8")


def restore_window(trainer: KTOTrainer, checkpoint: Path) -> None:
    """Go on from the sums in `checkpoint`; a checkpoint of another trainer has none, and nothing is restored."""
    path = _file(trainer, checkpoint)
    if not path.is_file():
        return
    sums = json.loads(path.read_bytes())
    trainer._tr_loss += sums["loss"]
    trainer._total_loss_scalar = sums["loss_before"]
    trainer._globalstep_last_logged = sums["first_step"]
    trainer._metrics["train"] = defaultdict(list, sums["metrics"])
    trainer._total_train_tokens = sums["tokens"]


def _file(trainer: KTOTrainer, checkpoint: Path) -> Path:
    return checkpoint / f"window_{trainer.args.process_index}.json"

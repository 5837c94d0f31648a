"""What a person sees of a run: a line a log, `metrics.jsonl`, a plot. Nothing here can lose a training.

`metrics.jsonl` has one JSON object a log, with TRL's names; a resumed run goes on in the same file.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

METRICS_NAME = "metrics.jsonl"
PLOT_NAME = "training.png"

_PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("loss", "eval_loss"),
    "rewards": ("rewards/chosen", "rewards/rejected"),
    "margin": ("rewards/margins",),
    "KL": ("kl",),
    "learning rate": ("learning_rate",),
    "gradient norm": ("grad_norm",),
}
_LABELS = {"rewards/chosen": "desirable", "rewards/rejected": "undesirable", "loss": "train", "eval_loss": "eval"}
_PLOT_ERRORS = (OSError, ValueError, RuntimeError, ImportError, MemoryError)
"""What drawing and writing a picture can fail with: a warning, whatever it is worth, and the training goes on."""

Say = Callable[[str], None]


class Monitor(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes metrics as they come, says them, and draws them at each save and at the end."""

    def __init__(self, output: Path, say: Say) -> None:
        self.output = output
        self.say = say
        self._started = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out of the metrics what was logged after the step that is gone on from, and the sum of a run that ended
        early."""
        self._started, self._first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            before = [entry for entry in read_metrics(self.output) if entry["step"] <= state.global_step]
            kept = [entry for entry in before if "train_runtime" not in entry]
            lines = "".join(json.dumps(entry) + "\n" for entry in kept)
            self._guarded(lambda: (self.output / METRICS_NAME).write_text(lines, encoding="utf-8"), METRICS_NAME)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line to the file and one to the person."""
        if not state.is_world_process_zero or not logs:
            return
        entry = {"step": state.global_step, **{key: _json_number(value) for key, value in logs.items()}}
        self._guarded(lambda: self._append(entry), METRICS_NAME)
        line = progress_line(entry, state.max_steps, self._seconds_left(state))
        if line:
            self.say(line)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw what there is so far."""
        if state.is_world_process_zero:
            self.plot()

    def plot(self) -> None:
        """Draw the metrics; a failure is said, and no more."""
        self._guarded(lambda: plot_metrics(read_metrics(self.output), self.output / PLOT_NAME), PLOT_NAME)

    def _append(self, entry: dict[str, Any]) -> None:
        with (self.output / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _seconds_left(self, state: Any) -> float | None:
        done: int = state.global_step - self._first_step
        left: int = state.max_steps - state.global_step
        if done <= 0:
            return None
        return (time.monotonic() - self._started) / done * left

    def _guarded(self, action: Callable[[], object], what: str) -> None:
        try:
            action()
        except _PLOT_ERRORS as error:
            self.say(f"warning: {what} could not be written: {error}")


def progress_line(entry: dict[str, Any], max_steps: int, seconds_left: float | None) -> str:
    """One log as a person reads it; empty where it is none of a step or an evaluation."""
    if "eval_loss" in entry:
        return f"step {entry['step']}/{max_steps}: evaluation loss {_told(entry['eval_loss'])}"
    if "loss" not in entry:
        return ""
    parts = [f"step {entry['step']}/{max_steps}: loss {_told(entry['loss'])}"]
    for name, key in (
        ("desirable", "rewards/chosen"),
        ("undesirable", "rewards/rejected"),
        ("margin", "rewards/margins"),
    ):
        if entry.get(key) is not None:
            parts.append(f"{name} {entry[key]:+.4f}")
    if entry.get("kl") is not None:
        parts.append(f"KL {entry['kl']:.4f}")
    if seconds_left is not None and seconds_left >= 1:
        minutes, seconds = divmod(round(seconds_left), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return ", ".join(parts)


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """The entries of `metrics.jsonl`; a last line that was cut short by a crash is left out."""
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


def plot_metrics(entries: list[dict[str, Any]], path: Path) -> None:
    """Draw loss, rewards, margin, KL, learning rate and gradient norm over steps; nothing where nothing was logged."""
    panels = {title: [key for key in keys if any(key in e for e in entries)] for title, keys in _PANELS.items()}
    panels = {title: keys for title, keys in panels.items() if keys}
    if not panels:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, keys) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(2, 3, place)
        for key in keys:
            points = [(entry["step"], entry[key]) for entry in entries if entry.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=_LABELS.get(key, key))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(keys) > 1:
            axes.legend()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=110)
    os.replace(temporary, path)


def _json_number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

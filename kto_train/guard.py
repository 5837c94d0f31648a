"""Stops a training whose loss or gradient is no finite number, before the step is taken that would spoil its weights.

TRL leaves rows whose loss is not a number out of the mean: the loss looks sound, and the gradient is lost. So the
gradient is what is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from kto_data.errors import DivergedError
from kto_train.checkpoint import last_whole
from kto_train.columns import REF_KL_LOGPS, REF_LOGPS
from kto_train.step_rows import StepRows, told_rows


class FiniteGuard(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Raises `DivergedError` naming the step, its rows and the likely cause."""

    def __init__(self, rows: StepRows, *, cache: str, output: Path) -> None:
        self.rows = rows
        self.cache = cache
        self.output = output

    def on_pre_optimizer_step(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        model: torch.nn.Module,
        optimizer: Any,
        train_dataloader: Any,
        **kwargs: Any,
    ) -> None:
        """Look at the gradient. In half precision it may overflow: the scaler then leaves the step out by itself.

        DeepSpeed keeps gradients to itself and has taken its step by now, or left it out: then its norm is looked at,
        before anything is logged or saved.
        """
        if args.fp16:
            return
        norm = _norm_of_deepspeed(optimizer)
        is_finite = _is_finite_norm(p.grad for p in model.parameters() if p.grad is not None)
        if is_finite and (norm is None or (norm >= 0 and math.isfinite(norm))):
            return
        step = state.global_step + 1
        cause = _cause(model) if norm is None else ""
        raise self._diverged("gradient", f"step {step}", self.rows.of(step, step), train_dataloader.dataset, cause)

    def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at what was logged."""
        for key, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if not (args.fp16 and key == "grad_norm") and not math.isfinite((logs or {}).get(key, 0.0)):
                rows = self.rows.of(state.global_step, state.global_step)
                when = f"step {state.global_step}" if args.logging_steps == 1 else f"step {state.global_step} or before"
                raise self._diverged(what, when, rows, kwargs["train_dataloader"].dataset, "")

    def _diverged(self, what: str, when: str, rows: list[int], dataset: Dataset, cause: str) -> DivergedError:
        lost = [] if cause else _lost_references(rows, dataset)
        if lost:
            rows, cause = lost, "reference log-probabilities that are not finite"
        likely = cause or "an overflow on these rows, or a learning rate too high"
        checkpoint, _ = last_whole(self.output)
        left = f"; {checkpoint} is whole" if checkpoint is not None else ""
        return DivergedError(
            f"{when}: the {what} is not finite; {told_rows(rows, dataset)}. Likely: {likely}{left}",
            hint=f"ktodata inspect {self.cache} --row {rows[0]}; then a lower kto.learning_rate, or without those rows",
        )


def _cause(model: torch.nn.Module) -> str:
    for name, weights in model.named_parameters():
        if not bool(torch.isfinite(weights).all()):
            return f"the weights were not finite before this step, of {name} first"
    return ""


def _lost_references(rows: list[int], dataset: Dataset) -> list[int]:
    """The rows whose cached reference log-probabilities are not finite."""
    columns = [name for name in (REF_LOGPS, REF_KL_LOGPS) if name in dataset.column_names]
    if not columns:
        return []
    values = dataset.select_columns(columns).select(rows)
    return [row for row, value in zip(rows, values, strict=True) if not all(map(math.isfinite, value.values()))]


def _norm_of_deepspeed(optimizer: Any) -> float | None:
    """The norm of the whole gradient as DeepSpeed found it, which for one that is not finite may be -1; else None."""
    within = getattr(optimizer, "optimizer", optimizer)  # accelerate puts a wrapper around it
    norm = getattr(within, "_global_grad_norm", None)
    return None if norm is None else float(norm)


def _is_finite_norm(tensors: Iterable[torch.Tensor]) -> bool:
    """One number for all of them, with a single look at the device."""
    norm = torch.nn.utils.get_total_norm(tensors)
    return math.isfinite(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))

"""What the guard makes of gradients and logs; in real trainings: test_watching.py."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from test_monitor import groups_of, state

from kto_data.errors import DivergedError
from kto_train.columns import REF_KL_LOGPS, REF_LOGPS
from kto_train.guard import FiniteGuard
from kto_train.step_rows import StepRows

ROWS = StepRows(groups_of(12, 4), seed=0, groups_per_step=1)


def look(
    folder: Path, *, gradient: float, fp16: bool = False, norm_of_deepspeed: float | None = None, **lost: int
) -> None:
    """The guard's look at a model whose gradient is `gradient`, before step 3; `lost`: a column and its lost row."""
    model = torch.nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[1.0, gradient]])
    values: list[dict[str, Any]] = [
        {"source": {"file": "a.jsonl", "line": row + 1}}
        | {column: math.nan if row == lost.get(column) else -2.0 for column in (REF_LOGPS, REF_KL_LOGPS)}
        for row in range(12)
    ]
    FiniteGuard(ROWS, cache="CACHE", output=folder).on_pre_optimizer_step(
        SimpleNamespace(fp16=fp16),
        state(2),
        None,
        model=model,
        optimizer=SimpleNamespace(optimizer=SimpleNamespace(_global_grad_norm=norm_of_deepspeed)),
        train_dataloader=SimpleNamespace(dataset=Dataset.from_list(values)),
    )


def test_a_finite_gradient_passes(tmp_path: Path) -> None:
    look(tmp_path, gradient=1e6)


@pytest.mark.parametrize("gradient", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_stops_the_step(gradient: float, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 3: the gradient is not finite; rows .*an overflow on these rows"):
        look(tmp_path, gradient=gradient)


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_what_deepspeed_says_of_its_gradient_stops_the_run(norm: float, tmp_path: Path) -> None:
    look(tmp_path, gradient=1.0, norm_of_deepspeed=3.5)
    with pytest.raises(DivergedError, match="step 3: the gradient is not finite"):
        look(tmp_path, gradient=1.0, norm_of_deepspeed=norm)


@pytest.mark.parametrize("column", [REF_LOGPS, REF_KL_LOGPS])
def test_the_row_whose_reference_was_lost_is_named_alone(column: str, tmp_path: Path) -> None:
    row = ROWS.of(3, 3)[2]
    with pytest.raises(DivergedError) as raised:
        look(tmp_path, gradient=math.nan, **{column: row})
    assert raised.value.what == (
        f"step 3: the gradient is not finite; row {row} (a.jsonl:{row + 1}). "
        "Likely: reference log-probabilities that are not finite"
    )
    assert raised.value.hint.startswith(f"ktodata inspect CACHE --row {row}; ")


def test_an_overflow_in_half_precision_is_the_scalers_business(tmp_path: Path) -> None:
    look(tmp_path, gradient=math.inf, fp16=True)


def log(folder: Path, *, fp16: bool, **logs: float) -> None:
    dataset = Dataset.from_list([{"source": {"file": "a.jsonl", "line": row + 1}} for row in range(12)])
    FiniteGuard(ROWS, cache="CACHE", output=folder).on_log(
        SimpleNamespace(fp16=fp16, logging_steps=10),
        state(3),
        None,
        logs=logs,
        train_dataloader=SimpleNamespace(dataset=dataset),
    )


def test_what_the_gradient_did_not_show_the_log_does(tmp_path: Path) -> None:
    log(tmp_path, fp16=False, loss=0.5, grad_norm=1.0)
    log(tmp_path, fp16=True, loss=0.5, grad_norm=math.inf)
    log(tmp_path, fp16=False, eval_loss=math.nan)
    with pytest.raises(DivergedError, match="step 3 or before: the loss is not finite"):
        log(tmp_path, fp16=True, loss=math.nan)
    with pytest.raises(DivergedError, match="step 3 or before: the gradient is not finite"):
        log(tmp_path, fp16=False, loss=0.5, grad_norm=math.nan)

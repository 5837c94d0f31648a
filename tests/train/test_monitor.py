from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from kto_train.monitor import METRICS_NAME, PLOT_NAME, Monitor, plot_metrics, progress_line, read_metrics

ENTRY = {"step": 3, "loss": 0.4981, "rewards/chosen": 0.002, "rewards/rejected": -0.001, "kl": 0.01}


def state(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=10, is_world_process_zero=True)


def test_a_line_of_progress_has_loss_rewards_and_kl() -> None:
    line = progress_line(ENTRY, 12, 3723.0)
    assert line == "step 3/12: loss 0.4981, desirable +0.0020, undesirable -0.0010, KL 0.0100, 1:02:03 left"
    assert progress_line({"step": 3, "loss": None}, 12, None) == "step 3/12: loss not finite"
    assert progress_line({"step": 3, "train_runtime": 1.0}, 12, None) == ""
    assert progress_line({"step": 3, "eval_loss": 0.5}, 12, None) == "step 3/12: evaluation loss 0.5000"


def test_each_log_is_a_line_of_the_metrics_file_and_no_number_is_nan(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, lambda line: None)
    monitor.on_log(None, state(1), None, logs={"loss": 0.5})
    monitor.on_log(None, state(2), None, logs={"loss": float("nan"), "kl": 0.0})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "kl": 0.0}]


def test_a_resumed_run_leaves_out_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    (tmp_path / METRICS_NAME).write_text("\n".join(lines) + '\n{"step": 4, "lo')
    Monitor(tmp_path, lambda line: None).on_train_begin(None, state(2), None)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2]


def test_the_metrics_are_drawn(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": 0.5 / step, "kl": None if step == 2 else 0.1} for step in (1, 2, 3)]
    plot_metrics(entries, tmp_path / PLOT_NAME)
    assert (tmp_path / PLOT_NAME).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    plot_metrics([{"step": 1, "train_runtime": 3.0}], tmp_path / PLOT_NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_plot_is_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    monitor = Monitor(tmp_path, said.append)
    monitor.on_log(None, state(1), None, logs={"loss": 0.5})
    (tmp_path / PLOT_NAME).mkdir()
    monitor.plot()
    assert said[-1].startswith(f"warning: {PLOT_NAME} could not be written")

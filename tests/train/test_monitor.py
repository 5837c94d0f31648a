"""What is written and said of a run, and that no failure of it reaches the training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from datasets import Dataset

from kto_data.progress import StepBar
from kto_train import card, plots, run_report
from kto_train.groups import Groups, Rows, build_groups
from kto_train.metrics import METRICS_NAME, append_entry, curves_of, read_metrics
from kto_train.monitor import Monitor, numbers, told_left
from kto_train.run_record import CONFIG_NAME, RunRecord
from kto_train.step_rows import StepRows, told_rows
from kto_train.watches import Training

ENTRY = {"step": 3, "loss": 0.4981, "rewards/chosen": 0.002, "rewards/rejected": -0.001, "kl": 0.01}

ABOUT: dict[str, Any] = {
    "ktodata": "0.1.0",
    "versions": {"trl": "1.16.0"},
    "config": {"model": "org/model", "cache": "CACHE", "lora": None, "kto": {"beta": 0.2}},
    "data": {
        "cache": "CACHE",
        "fingerprint": "086a5c91",
        "rows": 12,
        "desirable": 8,
        "undesirable": 4,
        "desirable weight": 1.0,
        "undesirable weight": 1.5,
        "balance": 4 / 3,
        "tokens": 400,
        "images": 3,
        "inputs": ["train.jsonl, 12 rows, SHA-256 ab"],
    },
    "steps": 10,
    "warnings": ["a learning rate of 1 is outside the usual <b>5e-07</b> to 5e-06"],
}
RECORD = RunRecord(matters={}, about=ABOUT, status="finished")


def state(step: int, max_steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=max_steps, is_world_process_zero=True)


def groups_of(count: int, batch_size: int) -> Groups:
    ones = np.ones(count, dtype=np.int64)
    rows = Rows(
        label=np.arange(count) % 2 == 0,
        prompt_length=ones,
        completion_length=ones,
        completion_key=np.arange(count, dtype=np.int64),
    )
    return build_groups(rows, batch_size=batch_size, seed=0)


def make_monitor(folder: Path) -> tuple[Monitor, list[str]]:
    said: list[str] = []
    rows = StepRows(groups_of(12, 4), seed=0, groups_per_step=1)
    training = Training(beta=0.1, has_kl=True)
    return Monitor(folder, StepBar(said.append), rows=rows, training=training, record=RECORD), said


def train_loader(count: int = 12) -> SimpleNamespace:
    return SimpleNamespace(
        dataset=Dataset.from_list([{"source": {"file": "a.jsonl", "line": i + 1}} for i in range(count)])
    )


def test_a_line_of_progress_has_loss_rewards_and_kl() -> None:
    assert numbers(ENTRY | {"rewards/margins": 0.003, "tokens_per_second": 1234.4}) == (
        "loss 0.4981, desirable +0.0020, undesirable -0.0010, margin +0.0030, KL 0.0100, 1,234 tokens/s"
    )
    assert numbers({"step": 3, "loss": None}) == "loss not finite"
    assert numbers({"step": 3, "train_runtime": 1.0}) == ""
    assert numbers({"step": 3, "eval_loss": 0.5}) == "evaluation loss 0.5000"


def test_the_time_left_is_that_of_the_steps_so_far() -> None:
    assert told_left(100.0, done=2, to_do=150) == "2:05:00 left"
    assert told_left(100.0, done=0, to_do=150) == ""
    assert told_left(100.0, done=2, to_do=0) == ""


def test_each_log_is_a_line_of_the_metrics_file_and_no_number_is_nan(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    monitor.on_log(None, state(1), None, logs={"loss": 0.5, "num_tokens": 100.0})
    monitor.on_log(None, state(2), None, logs={"eval_loss": float("nan"), "kl": 0.0})
    first, second = read_metrics(tmp_path)
    assert {"step": 1, "loss": 0.5}.items() <= first.items()
    assert first["tokens_per_second"] > 0
    assert second == {"step": 2, "eval_loss": None, "kl": 0.0}
    assert said[1] == "step 2/10: evaluation loss not finite"


def test_a_resumed_run_leaves_out_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    (tmp_path / METRICS_NAME).write_text("\n".join(lines) + '\n{"step": 4, "lo')
    make_monitor(tmp_path)[0].on_train_begin(None, state(2), None)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2]


def test_a_warning_is_said_once_with_its_rows_and_counted_to_the_end(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    (tmp_path / CONFIG_NAME).write_text("model: org/model\n")
    logs = {"loss": 0.5, "grad_norm": 0.0, "rewards/chosen": 0.0}
    for step in (1, 2, 3, 4):
        monitor.on_log(None, state(step), None, logs=dict(logs), train_dataloader=train_loader())
    rows = monitor.rows.of(1, 2)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.startswith("warning: steps 1 to 2: the gradient is 0, and the loss stays at 0.5. Likely: ")
    told = ", ".join(f"{row} (a.jsonl:{row + 1})" for row in rows)
    assert warning.endswith(f"Of steps 1 to 2: rows {told} (ktodata inspect CACHE --row {rows[0]})")
    kept = [entry.get("warnings", {}) for entry in read_metrics(tmp_path)]
    assert [list(one) for one in kept] == [[], *[["no-gradient"]] * 3]
    assert f"warning: {kept[1]['no-gradient']}" == warning
    # A resumed run does not say it again.
    resumed, said_then = make_monitor(tmp_path)
    resumed.on_train_begin(None, state(3), None)
    resumed.on_log(None, state(4), None, logs=dict(logs), train_dataloader=train_loader())
    resumed.finish(RECORD)
    assert [line for line in said_then if line.startswith("warning")] == ["warning: no-gradient: in 3 logs"]
    assert f"`no-gradient` in 3 logs. The first: {kept[1]['no-gradient']}\n" in (tmp_path / card.NAME).read_text()


def test_the_rows_of_a_step_are_those_of_its_groups() -> None:
    groups = groups_of(22, 4)  # six groups: three steps an epoch, the last of which has two rows less
    rows = StepRows(groups, seed=3, groups_per_step=2)
    for epoch in (0, 1):
        order = [row for group in groups.epoch_order(3, epoch) for row in groups[int(group)]]
        assert rows.of(3 * epoch + 1, 3 * epoch + 3) == order
    odd = StepRows(groups, seed=3, groups_per_step=4)
    assert sorted(odd.of(1, 2)) == sorted(odd.of(3, 4)) == list(range(22))


def test_many_rows_are_told_by_the_first_few() -> None:
    assert told_rows([3], train_loader().dataset) == "row 3 (a.jsonl:4)"
    assert told_rows(list(range(11)), train_loader().dataset).endswith("7 (a.jsonl:8) and 3 more")


def test_the_metrics_are_drawn_one_picture_a_panel_and_one_of_all(tmp_path: Path) -> None:
    entries = [{"step": step, "loss": 0.5 / step, "kl": None if step == 2 else 0.1} for step in (1, 2, 3)]
    plots.plot_metrics(entries, tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["kl.png", "loss.png", "overview.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    plots.plot_metrics([{"step": 1, "train_runtime": 3.0}], tmp_path / "plots")
    assert list(tmp_path.iterdir()) == []


def test_a_curve_has_the_points_that_were_logged() -> None:
    entries = [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None},
        {"step": 2, "eval_loss": 0.4},
        {"step": 3, "loss": 1.0},
    ]
    assert curves_of(entries) == {"loss": {"train": [(1, 0.5), (3, 1.0)], "eval": [(2, 0.4)]}}


def test_the_report_has_curves_settings_data_and_warnings_and_loads_nothing(tmp_path: Path) -> None:
    for step in range(1, 1001):
        append_entry(
            tmp_path,
            {"step": step, "loss": 0.5, "rewards/chosen": 0.1, "kl": -1.0, "warnings": {"spike": f"step {step}: <b>"}},
        )
    run_report.write(tmp_path, RECORD)
    page = (tmp_path / run_report.NAME).read_text()
    assert "<h1>Finished: " in page
    assert "step 1,000 of 10" in page
    assert page.count("<polyline") == 3
    assert "step 1: &lt;b&gt; <small>In 1,000 logs, the last of step 1,000.</small>" in page
    assert "kto.beta</th><td><bdi>0.2" in page
    assert "086a5c91" in page
    assert "&lt;b&gt;5e-07" in page  # escaped
    assert not any(word in page for word in ("http:", "https:", "<script", "src="))
    assert len(page) < 60_000


def test_the_card_has_data_settings_and_versions(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text("model: org/model\nkto:\n  beta: 0.2\n")
    append_entry(tmp_path, ENTRY)
    card.write(tmp_path, RECORD)
    text = (tmp_path / card.NAME).read_text()
    assert text.startswith('---\nlibrary_name: transformers\nbase_model: "org/model"\ntags:\n- kto\n')
    for told in (
        "| fingerprint | `086a5c91` |",
        "| rows | 12: 8 desirable, 4 undesirable |",
        "| balance b | 1.333 (band [1, 4/3]) |",
        "| loss | 0.4981 |",
        "```yaml\nmodel: org/model\nkto:\n  beta: 0.2\n```",
        "| trl | 1.16.0 |",
    ):
        assert told in text


def test_what_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    (tmp_path / "plots").write_text("a file in the place of the folder")
    for name in (METRICS_NAME, run_report.NAME, card.NAME, "run.json"):
        (tmp_path / name).mkdir()
    monitor.on_train_begin(None, state(0), None)
    monitor.on_log(None, state(1), None, logs={"loss": 0.5})
    monitor.finish(RECORD)
    warned = [line.removeprefix("warning: ").split(" ")[0] for line in said if "could not be written" in line]
    assert warned == [METRICS_NAME, METRICS_NAME, "run.json", "plots", run_report.NAME, card.NAME]


def test_a_mistake_in_what_is_written_is_a_warning_too(tmp_path: Path) -> None:
    monitor, said = make_monitor(tmp_path)
    monitor.attempt(lambda: {}["no such key"], "report.html")
    assert said == ["warning: report.html could not be written: 'no such key'"]

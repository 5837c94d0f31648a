"""What a person sees of a run: lines or a bar, `metrics.jsonl`, curves, a report. Nothing here can lose a training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from kto_data.progress import StepBar
from kto_train import card, plots, run_report
from kto_train.metrics import METRICS_NAME, WARNINGS, Entry, append_entry, cut_after, entry_of, read_metrics
from kto_train.run_record import RUN_NAME, RunRecord
from kto_train.step_rows import StepRows, told_rows, told_steps
from kto_train.watches import HISTORY, Alarm, Reading, Training, alarms, reading_of


class Monitor(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes metrics as they come, says them, watches them, and draws them at each save and at the end."""

    def __init__(self, output: Path, bar: StepBar, *, rows: StepRows, training: Training, record: RunRecord) -> None:
        self.output = output
        self.bar = bar
        self.rows = rows
        self.training = training
        self.record = record
        self.alarm_counts: Counter[str] = Counter()
        self._clock = Clock()
        self._readings: list[Reading] = []
        self._num_tokens = 0.0

    # -- while it runs ------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out of the metrics what was logged after the step that is gone on from, and go on watching there."""
        self._clock = Clock(state.global_step)
        if state.is_world_process_zero:
            self.attempt(lambda: self._go_on_from(state.global_step), METRICS_NAME)

    def _go_on_from(self, step: int) -> None:
        first_step = 1
        for entry in cut_after(self.output, step):
            reading = reading_of(entry, first_step)
            if reading is not None:
                first_step = reading.step + 1
                self._readings.append(reading)
                self._num_tokens = entry.get("num_tokens", 0.0)
            self.alarm_counts.update(list(entry.get(WARNINGS, {})))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starting the loader anew is no waiting for it."""
        self._clock.epoch_begins()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The batches of the step are there."""
        self._clock.data_came()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step is done."""
        self._clock.step_ends()
        if state.is_world_process_zero:
            self.bar.update(state.global_step, state.max_steps, left=self._clock.left(state))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One line to the file and one to the person; and what the watches say."""
        if state.is_world_process_zero and logs:
            entry = entry_of(state.global_step, logs)
            self.attempt(lambda: self._complete(entry, kwargs.get("train_dataloader")), WARNINGS)
            self.attempt(lambda: append_entry(self.output, entry), METRICS_NAME)
            words = numbers(entry)
            if "loss" in entry and self.bar.is_shown:
                self.bar.update(state.global_step, state.max_steps, state=words)
            elif words:
                left = self._clock.left(state) if "loss" in entry else ""
                self.bar.say(f"step {entry['step']}/{state.max_steps}: {words}{f', {left}' if left else ''}")
            self._say_new(entry)
        self._clock.rests()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluating is no waiting for data."""
        self._clock.rests()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw what there is so far."""
        if state.is_world_process_zero:
            self.draw()
        self._clock.rests()

    def _complete(self, entry: Entry, loader: Any) -> None:
        """Add what is measured here, and what the watches see."""
        if "loss" not in entry:
            return
        seconds, waiting = self._clock.take()
        tokens = entry.get("num_tokens", 0.0)
        entry["tokens_per_second"] = round(max(0.0, tokens - self._num_tokens) / seconds, 1)
        entry["data_wait_share"] = round(waiting / seconds, 4)
        self._num_tokens = tokens
        first_step = self._readings[-1].step + 1 if self._readings else self._clock.first_step + 1
        reading = reading_of(entry, first_step)
        assert reading is not None
        self._readings = [*self._readings[1 - HISTORY :], reading]
        found = {alarm.name: self._told(alarm, loader.dataset) for alarm in alarms(self._readings, self.training)}
        if found:
            entry[WARNINGS] = found

    def _told(self, alarm: Alarm, dataset: Dataset) -> str:
        """An alarm as a person reads it, with the rows to look at; of a trend those of its last step."""
        first_step = alarm.first_step if alarm.is_of_rows else alarm.step
        rows = self.rows.of(first_step, alarm.step)
        cache = self.record.about["data"]["cache"]
        return (
            f"{told_steps(alarm.first_step, alarm.step)}: {alarm.what}. Likely: {alarm.cause}. "
            f"Look at: {alarm.look_at}. Of {told_steps(first_step, alarm.step)}: {told_rows(rows, dataset)} "
            f"(ktodata inspect {cache} --row {rows[0]})"
        )

    def _say_new(self, entry: Entry) -> None:
        """Each warning once: it is counted from then on."""
        for name, told in entry.get(WARNINGS, {}).items():
            self.alarm_counts[name] += 1
            if self.alarm_counts[name] == 1:
                self.bar.say(f"warning: {told}")

    # -- what is left of it -------------------------------------------------------------------------------------

    def finish(self, record: RunRecord) -> None:
        """The last state of everything, whatever way the run ended. Failures are said, and no more."""
        self.record = record
        self.attempt(lambda: record.write(self.output), RUN_NAME)
        self.draw()
        if record.status == "finished":
            self.attempt(lambda: card.write(self.output, record), card.NAME)
        for name, count in self.alarm_counts.items():
            if count > 1:
                self.bar.say(f"warning: {name}: in {count:,} logs")

    def draw(self) -> None:
        """Curves and report as of now; a failure is said, and no more."""
        self.attempt(lambda: plots.plot_metrics(read_metrics(self.output), self.output / plots.FOLDER), plots.FOLDER)
        self.attempt(lambda: run_report.write(self.output, self.record), run_report.NAME)

    def attempt(self, action: Callable[[], object], what: str) -> None:
        """Do what a training can do without; a failure is said, and no more.

        Whatever it is: a mistake in a page or a full disk, days of training are worth more.
        """
        try:
            action()
        except Exception as error:  # a training is not lost for it, whatever it is
            self.bar.say(f"warning: {what} could not be written: {str(error) or type(error).__name__}")


class Clock:
    """Where the time of a run goes. `first_step`: the steps that were done before it."""

    def __init__(self, first_step: int = 0) -> None:
        self.first_step = first_step
        self._begun = self._mark = time.monotonic()
        self._working = self._waiting = 0.0
        self._is_epoch_new = False

    def epoch_begins(self) -> None:
        """The next wait is for the loader to start, and does not count."""
        self._is_epoch_new = True

    def data_came(self) -> None:
        """What was waited for since the last call of any of these."""
        if not self._is_epoch_new:
            self._waiting += time.monotonic() - self._mark
        self._is_epoch_new = False
        self._mark = time.monotonic()

    def step_ends(self) -> None:
        """What was worked."""
        self._working += time.monotonic() - self._mark
        self._mark = time.monotonic()

    def rests(self) -> None:
        """What lies behind was neither a step nor waiting for data."""
        self._mark = time.monotonic()

    def take(self) -> tuple[float, float]:
        """(seconds of steps and of waiting for their data, seconds of waiting alone) since the last call."""
        taken = self._working + self._waiting, self._waiting
        self._working = self._waiting = 0.0
        return max(taken[0], 1e-9), taken[1]

    def left(self, state: Any) -> str:
        """The time that is left, as a person reads it."""
        done = state.global_step - self.first_step
        return told_left(time.monotonic() - self._begun, done, state.max_steps - state.global_step)


def told_left(seconds: float, done: int, to_do: int) -> str:
    """The time left, if steps to come take as long as those done in `seconds`; empty where that says nothing."""
    if not done or seconds / done * to_do < 1:
        return ""
    minutes, rest = divmod(round(seconds / done * to_do), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left"


def numbers(entry: Entry) -> str:
    """One log as a person reads it; empty where it is none of a step or an evaluation."""
    if "eval_loss" in entry:
        return f"evaluation loss {_told(entry['eval_loss'])}"
    if "loss" not in entry:
        return ""
    parts = [f"loss {_told(entry['loss'])}"]
    for name, key in (
        ("desirable", "rewards/chosen"),
        ("undesirable", "rewards/rejected"),
        ("margin", "rewards/margins"),
    ):
        if entry.get(key) is not None:
            parts.append(f"{name} {entry[key]:+.4f}")
    if entry.get("kl") is not None:
        parts.append(f"KL {entry['kl']:.4f}")
    if entry.get("tokens_per_second"):
        parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"

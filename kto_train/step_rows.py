"""Which rows a step was made of, and where they came from: what is to be looked at when a step goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from kto_train.columns import SOURCE
from kto_train.groups import Groups

_MOST_TOLD = 8


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of each optimizer step, worked out from the groups: nothing is kept while a training runs."""

    groups: Groups
    seed: int
    groups_per_step: int  # of all devices, accumulated ones included

    def of(self, first_step: int, last_step: int) -> list[int]:
        """Row numbers of the split `train`, from 0, in the order trained. Steps count from 1; the last one of an epoch
        may have fewer groups."""
        return [row for step in range(first_step, last_step + 1) for row in self._of_step(step)]

    def _of_step(self, step: int) -> list[int]:
        steps_per_epoch = -(-len(self.groups) // self.groups_per_step)
        epoch, place = divmod(step - 1, steps_per_epoch)
        order = self.groups.epoch_order(self.seed, epoch)
        groups = order[place * self.groups_per_step : (place + 1) * self.groups_per_step]
        return [row for group in groups for row in self.groups[int(group)]]


def told_rows(rows: Sequence[int], dataset: Dataset) -> str:
    """Rows and the lines they were read from, as a person reads them; of many the first few, and how many more."""
    sources = dataset.select_columns([SOURCE])
    named = ", ".join(f"{row} ({_line(sources[row][SOURCE])})" for row in rows[:_MOST_TOLD])
    more = f" and {len(rows) - _MOST_TOLD:,} more" if len(rows) > _MOST_TOLD else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {named}{more}"


def told_steps(first_step: int, last_step: int) -> str:
    """Steps, as a person says them."""
    return f"step {last_step}" if first_step == last_step else f"steps {first_step} to {last_step}"


def _line(source: dict[str, object]) -> str:
    return f"{source['file']}:{source['line']}"

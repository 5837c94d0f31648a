"""One pass of the reference model over all groups, shared by the ranks; what is done is on disk while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object

from kto_data.errors import ModelError
from kto_train.groups import Groups
from kto_train.reference import Unfinished, Values, as_values, no_values, not_finite, one_a_row

logger = logging.getLogger("kto_train")

TELL_SECONDS = 10.0
"""Between two lines of progress."""
KEEP_SECONDS = 30.0
"""Between two writes of what is computed: what a killed run loses at most."""

Tensors = dict[str, torch.Tensor]
Batches = Callable[[list[list[int]]], Iterable[Tensors]]
LogProbs = Callable[[Tensors], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePass:
    """Computes the values of `groups` that `unfinished` does not hold yet, on `num_ranks` devices.

    `batches` makes the batches of groups of rows, `log_probs` a batch's values, and `where` says where a row is from.
    """

    groups: Groups
    unfinished: Unfinished
    title: str
    batches: Batches
    log_probs: LogProbs
    where: Callable[[int], str]
    rank: int
    num_ranks: int

    def run(self) -> Values:
        """The values of all rows, on every rank.

        Raises `InputError` where they cannot be kept, and `ModelError` where the model gives something that is no
        number, naming the row.
        """
        found, damaged = self.unfinished.read()
        if damaged:
            logger.warning("%s: %d damaged files of an unfinished run are passed over", self.title, damaged)
        done = _gathered(found)
        pending = _without(self.groups, done)
        if len(done):
            logger.warning("%s: %s rows of an unfinished run are kept", self.title, f"{len(done):,}")
        return one_a_row(np.concatenate([done, _gathered(self._computed(self._own(pending)))]))

    def _own(self, pending: list[list[int]]) -> list[list[int]]:
        """This rank's share; as many groups on every rank, since ranks that share a model forward together."""
        if not pending:
            return []
        missing = -len(pending) % self.num_ranks
        return [*pending, *(pending * self.num_ranks)[:missing]][self.rank :: self.num_ranks]

    def _computed(self, own: list[list[int]]) -> Values:
        found = [no_values()]
        num_kept = 1
        progress = _Progress(self.title, sum(map(len, own)), self.num_ranks)
        last_kept = time.monotonic()
        try:
            for rows, batch in zip(own, self.batches(own) if own else (), strict=True):
                values = as_values(rows, *self.log_probs(batch))
                self._check(values)
                found.append(values)
                progress.advance(len(rows))
                if time.monotonic() - last_kept >= KEEP_SECONDS:
                    last_kept = time.monotonic()
                    self.unfinished.append(np.concatenate(found[num_kept:]))
                    num_kept = len(found)
        finally:
            # Also on Ctrl-C, or where an image of a later row is missing.
            if found[num_kept:]:
                self.unfinished.append(np.concatenate(found[num_kept:]))
        progress.finish()
        return np.concatenate(found)

    def _check(self, values: Values) -> None:
        rows = not_finite(values)
        if rows:
            raise ModelError(
                f"{self.where(rows[0])}: the model's log-probability of this row is no number",
                hint="its weights are damaged, or overflow in this dtype: try model_init_kwargs: {dtype: float32}",
            )


class _Progress:
    """Rows a second, and the time left, said now and then: of all ranks, as far as one can tell."""

    def __init__(self, title: str, num_rows: int, num_ranks: int) -> None:
        self._title = title
        self._num_rows = num_rows
        self._num_ranks = num_ranks
        self._done = 0
        self._started = self._last_told = time.monotonic()

    def advance(self, num_rows: int) -> None:
        self._done += num_rows
        now = time.monotonic()
        if now - self._last_told >= TELL_SECONDS:
            self._last_told = now
            rate = self._done / (now - self._started)
            logger.info(
                "%s: %s of %s rows, %s rows/s, %s left",
                self._title,
                f"{self._done * self._num_ranks:,}",
                f"{self._num_rows * self._num_ranks:,}",
                f"{rate * self._num_ranks:,.1f}",
                _clock((self._num_rows - self._done) / rate),
            )

    def finish(self) -> None:
        if self._done:
            seconds = max(time.monotonic() - self._started, 1e-9)
            logger.info(
                "%s: computed in %s, %s rows/s",
                self._title,
                _clock(seconds),
                f"{self._done * self._num_ranks / seconds:,.1f}",
            )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _gathered(values: Values) -> Values:
    """What all ranks have, on every rank."""
    return one_a_row(np.concatenate(gather_object([values])))


def _without(groups: Groups, done: Values) -> list[list[int]]:
    """The groups with a row that is not among `done`."""
    has_value = np.zeros(len(groups.order), dtype=np.bool_)
    has_value[done["row"]] = True
    return [rows for rows in _all(groups) if not has_value[rows].all()]


def _all(groups: Groups) -> Sequence[list[int]]:
    return [groups[g] for g in range(len(groups))]

"""How a training ends before its last step: on a signal, with a checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

Say = Callable[[str], None]


class StopSignals(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Ctrl-C and SIGTERM end a training after its step, with a checkpoint; a second one ends it at once.

    A signal to one rank stops all of them, after the same step. One that comes after the last step stops nothing: what
    is left to do is to save the model. Outside of `train` (loading, computing references) signals end the program at
    once, as a KeyboardInterrupt.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self.stopped = False
        """Whether the training ended before its last step; the same on every rank."""
        self._asked = False
        self._training = False
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data worker, which a terminal's Ctrl-C reaches too: the batch at hand is still wanted
        if self._asked or not self._training:
            raise KeyboardInterrupt
        self._asked = True
        self.say(f"{signal.Signals(number).name}: finishing this step, then saving a checkpoint")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From here on there is something to save."""
        self._training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop, if any rank was asked to."""
        self.stopped = _any_rank(self._asked, args.device)
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing to finish any more."""
        self._training = False


def _any_rank(claim: bool, device: torch.device) -> bool:
    """Whether `claim` holds on any rank; every rank must ask."""
    if not torch.distributed.is_initialized():
        return claim
    found = torch.tensor(int(claim), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found.item())

"""TRL's `KTOTrainer` with checkpoints that are whole, and from which it goes on bit for bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import KTOTrainer

from kto_data.errors import ConfigError
from kto_train.checkpoint import seal
from kto_train.sharding import states_where_there_are_any
from kto_train.window import restore_window, save_window

logger = logging.getLogger("kto_train")


class ResumableKTOTrainer(KTOTrainer):  # type: ignore[misc]  # trl has no types
    """A `KTOTrainer` whose checkpoints say whether they are whole, and which one of them always is.

    A run that is gone on with from one has the weights, the order and the logs of a run that was never broken.
    """

    resumed_from: Path | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_callback(_Window(self))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Sealed when all of it is there, and only then older ones make room: one of them is always whole."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        folder = Path(self._get_output_dir(trial))
        saved = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        save_window(self, saved)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(saved, self.state.global_step)
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint, use_mtime=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """An adapter in the dtype that it is trained in, whole weights by the names of the model.

        peft reads an adapter in full precision: one above quantized weights, which TRL trains in half, would be trained
        otherwise from there.
        """
        model = self.model if model is None else model
        if self._is_whole(model):
            _load_weights(model, resume_from_checkpoint)
            return
        with _same_dtypes(model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """What `load_best_model_at_end` asks for; read as transformers reads it, it would be the last model."""
        if self._is_whole(self.model):
            _load_weights(self.model, self.state.best_model_checkpoint)
            return
        with _same_dtypes(self.model):
            super()._load_best_model()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether these are the best so far. Raises `ConfigError` where what is to be compared is not among them."""
        try:
            return bool(super()._determine_best_metric(metrics, trial))
        except KeyError:
            known = ", ".join(sorted(metrics))
            raise ConfigError(
                f"metric_for_best_model is {self.args.metric_for_best_model}, which no evaluation measures", hint=known
            ) from None

    def _is_whole(self, model: Any) -> bool:
        """Whether a checkpoint holds all weights of the model, as `from_pretrained` takes them."""
        return not (is_peft_model(model) or self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's, whose failure is a warning: it is written before each checkpoint, which must not be lost to it."""
        try:
            super().create_model_card(*args, **kwargs)
        except Exception as error:  # a checkpoint is not lost for it, whatever it is
            logger.warning("warning: the model card could not be written: %s", str(error) or type(error).__name__)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where the last step is done: transformers looks at the number of steps after a step alone, and would
        train one too many, where a run was lost between its last checkpoint and its model."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Where a resumed run learns from where, whatever shards its weights."""
        self.resumed_from = None if checkpoint is None else Path(checkpoint)
        with states_where_there_are_any() if self.is_fsdp_enabled else nullcontext():
            super()._load_optimizer_and_scheduler(checkpoint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The mean loss at the end is that of all steps, those before resuming too."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)


def _load_weights(model: Any, checkpoint: str) -> None:
    """Weights through `from_pretrained`, strictly.

    transformers reads a checkpoint's tensors by the names of the file, which for many vision-language models are not
    those of the model: it then leaves the weights as they are, with a warning about missing keys
    (huggingface/transformers#43701).
    """
    saved = type(model).from_pretrained(checkpoint, dtype=model.dtype)
    model.load_state_dict(saved.state_dict(), strict=True)


@contextmanager
def _same_dtypes(model: Any) -> Iterator[None]:
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    yield
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(dtypes[name])


class _Window(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Gives a resumed trainer what was added up before."""

    def __init__(self, trainer: ResumableKTOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.resumed_from is not None:
            restore_window(self.trainer, self.trainer.resumed_from)

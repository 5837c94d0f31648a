"""One training in a process of its own, for `benchmarks.train`: takes a job as JSON, prints what it took as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, TrainerCallback
from trl import KTOConfig, KTOTrainer

from benchmarks.train_rows import stock_dataset
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, load_cache
from kto_train.columns import ATTENTION_MASK, KL_PREFIX
from kto_train.estimate import Estimator, Setup
from kto_train.memory import largest_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, and how."""

    is_stock: bool
    model: str
    data: str  # the records; their cache is beside them
    loss: str
    batch_size: int
    lora: bool = False
    checkpointing: bool = True
    count_flops: bool = False  # slows the run: not to be timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one epoch took, on a GPU the second; seconds are CPU time of the process, there of the clock."""

    steps: int
    seconds: float
    step_seconds: float  # of these in forwards and backwards: the rest is the optimizer's, and waiting for batches
    setup_seconds: float  # until the first step: loading, and the reference's log-probabilities where they are cached
    flops: int
    setup_flops: int
    tokens: int  # of all sequences that are scored, the KL ones too
    padding: int
    peak_bytes: int
    held_bytes: int  # weights of all models that the trainer keeps
    reference_bytes: int
    estimated: dict[str, float]  # bytes by part, as `--dry-run` tells them; none of stock TRL
    device: str


class _Counted:
    """Counts the tokens of the batches that a trainer trains, and the time of their forwards and backwards."""

    counts: Counter[str]
    step_seconds: float

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        for name in (ATTENTION_MASK, KL_PREFIX + ATTENTION_MASK):
            if name in inputs:
                self.counts["tokens"] += int(inputs[name].sum())
                self.counts["slots"] += inputs[name].numel()
        started = _clock()
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self.step_seconds += _clock() - started
        return loss


class _Stock(_Counted, KTOTrainer):  # type: ignore[misc]
    pass


class _Ours(_Counted, CachedKTOTrainer):
    pass


class _LastEpoch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Counts and times the last epoch alone."""

    def __init__(self, trainer: _Counted) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.counts, self.trainer.step_seconds = Counter(), 0.0
        self.started = _clock()


def run(job: Job, folder: Path) -> Taken:
    """Train one epoch of all rows, without saving."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    with FlopCounterMode(display=False) if job.count_flops else _nothing() as counter:
        started = _clock()
        trainer = _trainer(job, folder, on_gpu)
        last_epoch = _LastEpoch(trainer)
        trainer.add_callback(last_epoch)
        setup, setup_flops = _clock() - started, counter.get_total_flops()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        seconds = _clock() - last_epoch.started
    peak = torch.cuda.max_memory_allocated() if on_gpu else _peak_of_process()
    reference_bytes = _weight_bytes(trainer.ref_model)
    num_epochs = int(trainer.args.num_train_epochs)
    return Taken(
        steps=trainer.state.global_step // num_epochs,
        seconds=seconds,
        step_seconds=trainer.step_seconds,
        setup_seconds=setup,
        flops=(counter.get_total_flops() - setup_flops) // num_epochs,
        setup_flops=setup_flops,
        tokens=trainer.counts["tokens"],
        padding=trainer.counts["slots"] - trainer.counts["tokens"],
        peak_bytes=peak,
        held_bytes=_weight_bytes(trainer.model) + reference_bytes,
        reference_bytes=reference_bytes,
        estimated={} if job.is_stock else _estimated(trainer, job),
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
    )


def _estimated(trainer: CachedKTOTrainer, job: Job) -> dict[str, float]:
    config = AutoConfig.from_pretrained(job.model)
    batch = largest_batch(trainer.cache, trainer.train_groups, load_processor(job.model), config)
    return asdict(Estimator(config).estimate(batch, Setup.of(trainer.args, config, _lora(job))))


def _lora(job: Job) -> LoraConfig | None:
    return LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if job.lora else None


def _trainer(job: Job, folder: Path, on_gpu: bool) -> Any:
    data = Path(job.data)
    args = KTOConfig(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=job.batch_size,
        # The first on a GPU compiles kernels and asks the driver for memory, at each width of a batch anew.
        num_train_epochs=2 if on_gpu else 1,
        loss_type=job.loss,
        gradient_checkpointing=job.checkpointing,
        precompute_ref_log_probs=not job.is_stock,
        max_length=None,  # TRL cuts at 1,024 by default, and would cut image tokens
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=4 if on_gpu else 0,  # on processors alone, all of the work is this process's
        model_init_kwargs={"dtype": "bfloat16"} if on_gpu else None,
        **({"bf16": True} if on_gpu else {"use_cpu": True, "bf16": False}),
    )
    lora = _lora(job)
    if job.is_stock:
        processing = load_processor(job.model).processing_class
        return _Stock(
            job.model, args=args, train_dataset=stock_dataset(data), processing_class=processing, peft_config=lora
        )
    return _Ours(
        job.model,
        args=args,
        cache=load_cache(data.parent / "cache"),
        reference_folder=folder / "reference",
        peft_config=lora,
    )


class _nothing:
    """A counter that counts nothing."""

    def __enter__(self) -> _nothing:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_total_flops(self) -> int:
        return 0


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _peak_of_process() -> int:
    """The most that was resident at any time. Linux; `ru_maxrss` would begin with the size of whoever started this."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _weight_bytes(model: Any) -> int:
    return 0 if model is None else sum(weight.nbytes for weight in model.parameters())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        taken = run(Job(**json.loads(sys.argv[1])), Path(scratch))
    print(json.dumps(asdict(taken)))

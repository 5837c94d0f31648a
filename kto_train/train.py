"""The run: settings to a trained model.

    TrainConfig ─▶ checks ─▶ Plan ─▶ trainer ─▶ checkpoints, metrics, plot ─▶ model

Everything that can be told without the weights is told before they are read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_data import __version__
from kto_data.balance import AdmissibleWeights
from kto_data.errors import ConfigError, ExitCode, InputError, KtoDataError, ModelError
from kto_data.manifest import read_manifest
from kto_train import checks
from kto_train.config import TrainConfig, check_fields, write_config
from kto_train.run_record import CONFIG_NAME, RunRecord, checkpoint_to_resume, step_of, what_matters

if TYPE_CHECKING:
    from trl import KTOConfig

    from kto_data.processor import Processor
    from kto_train.dataset import Cache
    from kto_train.groups import Groups
    from kto_train.trainer import CachedKTOTrainer

_FEW_STEPS = 100
"""Up to this many steps each one is logged; in longer runs every tenth, as TRL does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is known of a run before the weights are read."""

    config: TrainConfig
    cache: Cache
    processor: Processor
    args: KTOConfig
    groups: Groups
    balance: AdmissibleWeights
    num_steps: int
    warnings: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The plan as a person reads it."""
        groups, args, balance = self.groups, self.args, self.balance
        rows = len(groups.order)
        yield f"model      {self.config.model}, {'LoRA' if self.config.lora is not None else 'all weights'}"
        yield f"cache      {self.config.cache}: {rows:,} rows, {balance.num_desirable:,} desirable"
        sizes = f"{groups.smallest}" if groups.smallest == groups.largest else f"{groups.smallest} to {groups.largest}"
        yield f"groups     {len(groups):,} of {sizes} rows, {groups.padding_share:.0%} padding"
        accumulated = args.gradient_accumulation_steps * args.world_size
        yield f"steps      {self.num_steps:,}, of {accumulated} group{'s' if accumulated > 1 else ''} each"
        b = "undefined" if balance.balance is None else f"{balance.balance:.3g}"
        yield f"weights    desirable {balance.desirable_weight:g}, undesirable {balance.undesirable_weight:g}: b = {b}"
        yield f"reference  {self.config.reference}"
        if groups.num_self_pairs:
            yield f"KTO406     {groups.num_self_pairs:,} rows have a KL partner with a completion equal to their own"
        if groups.num_cut:
            yield f"KL cuts    {groups.num_cut:,} KL sequences lose the tail of the partner's completion"
        for warning in self.warnings:
            yield f"warning: {warning}"


def run(config: TrainConfig, *, dry_run: bool, say: Any) -> int:
    """Train; returns the exit code. Raises `KtoDataError` for all that is wrong with what was asked for."""
    # Before any import that reads them. HF_HUB_OFFLINE is the user's and is left as it is.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not _is_main_process():
        say = _nothing  # under torchrun, one voice is enough
    checks.check_installed()
    plan = make_plan(config)
    for line in plan.lines():
        say(line)
    if dry_run:
        return ExitCode.OK
    return _train(plan, say)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _nothing(line: str) -> None:
    pass


def make_plan(config: TrainConfig) -> Plan:
    """Check everything and work out the groups, the weights and the steps; no weight is read."""
    manifest = read_manifest(Path(config.cache))
    checks.check_output(config)
    checks.check_kto_batch(config)
    checks.check_evaluation(config, manifest)
    with _quiet_libraries():
        from kto_data.processor import load_processor
        from kto_train.dataset import TRAIN, load_cache, read_rows
        from kto_train.trainer import make_groups

        _check_library_fields(config)
        cache = load_cache(config.cache, config.image_root)
        processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
        checks.check_cache_and_model(manifest, processor)
        checks.check_weights_are_there(config.model)
        checks.check_devices()
        rows = read_rows(cache[TRAIN])
        num_desirable = int(rows.label.sum())
        balance = checks.chosen_weights(config.weights, num_desirable, len(rows) - num_desirable)
        args = _kto_config(config, balance, has_images=processor.has_images)
        groups = make_groups(rows, args, manifest.max_length)
        num_steps = _num_steps(args, groups)
    if "logging_steps" not in config.kto and num_steps <= _FEW_STEPS:
        args.logging_steps = 1
    return Plan(
        config=config,
        cache=cache,
        processor=processor,
        args=args,
        groups=groups,
        balance=balance,
        num_steps=num_steps,
        warnings=tuple(checks.warnings_of(config, args, balance)),
    )


def _check_library_fields(config: TrainConfig) -> None:
    from peft import LoraConfig
    from trl import KTOConfig

    check_fields(config.kto, KTOConfig, "kto")
    if config.lora is not None:
        check_fields(config.lora, LoraConfig, "lora")


def _kto_config(config: TrainConfig, balance: AdmissibleWeights, *, has_images: bool) -> KTOConfig:
    import torch
    from trl import KTOConfig

    settings: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "logging_nan_inf_filter": False}
    if not torch.accelerator.is_available():
        settings |= {"use_cpu": True, "bf16": False}
    if has_images:
        settings["dataloader_num_workers"] = max(1, min(4, (os.cpu_count() or 1) // 2))
    settings |= config.kto
    settings |= {
        "output_dir": config.output_dir,
        "seed": config.seed,
        "trust_remote_code": config.trust_remote_code,
        "max_length": None,
        "desirable_weight": balance.desirable_weight,
        "undesirable_weight": balance.undesirable_weight,
        "precompute_ref_log_probs": config.reference == "cached",
    }
    try:
        return KTOConfig(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"kto: {_first_line(error)}") from None


def _num_steps(args: KTOConfig, groups: Groups) -> int:
    if args.max_steps > 0:
        return int(args.max_steps)
    per_epoch = -(-len(groups) // args.world_size // args.gradient_accumulation_steps)
    return int(-(-per_epoch * args.num_train_epochs // 1))


def _train(plan: Plan, say: Any) -> int:
    from kto_train.collate import image_backend
    from kto_train.monitor import Monitor, StopSignals

    config, output = plan.config, Path(plan.config.output_dir)
    matters = what_matters(
        config,
        cache_fingerprint=plan.cache.manifest.fingerprint,
        num_ranks=plan.args.world_size,
        weights=(plan.balance.desirable_weight, plan.balance.undesirable_weight),
        image_backend=image_backend(plan.processor),
    )
    checkpoint = checkpoint_to_resume(config, matters)
    record = RunRecord(matters=matters, about=_about(plan))
    monitor = Monitor(output, say)
    with _writing_to(output), StopSignals(say) as signals, _quiet_libraries(), _library_messages(say):
        if _is_main_process():
            output.mkdir(parents=True, exist_ok=True)
            write_config(config, output / CONFIG_NAME)
            record.write(output)
        trainer = _make_trainer(plan, [monitor, signals])
        if checkpoint is not None:
            say(f"resumed from {checkpoint}, step {step_of(checkpoint)}")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if not signals.stopped:
            # The model first: what comes after it may fail without losing it.
            trainer.save_model()
            trainer.save_state()
        trainer.accelerator.end_training()
    if _is_main_process():
        replace(record, status="interrupted" if signals.stopped else "finished").write(output)
        monitor.plot()
    if signals.stopped:
        say(f"interrupted; to go on: ktodata train --config {output / CONFIG_NAME} --resume auto")
        return ExitCode.INTERRUPTED
    say(f"{'adapter' if config.lora is not None else 'model'} saved in {output}, curves in {output / 'training.png'}")
    return ExitCode.OK


def _make_trainer(plan: Plan, callbacks: list[Any]) -> CachedKTOTrainer:
    from transformers import PrinterCallback

    from kto_train.trainer import CachedKTOTrainer

    config = plan.config
    beside = Path(config.cache) / "reference"
    try:
        trainer = CachedKTOTrainer(
            config.model,
            cache=plan.cache,
            args=plan.args,
            processor=plan.processor,
            groups=plan.groups,
            reference_folder=beside if os.access(config.cache, os.W_OK) else Path(config.output_dir) / "reference",
            peft_config=_peft_config(config),
            callbacks=callbacks,
        )
    except OSError as error:
        if error.errno is not None:  # the system's own: a full disk, a missing permission
            raise
        raise ModelError(f"{config.model} cannot be loaded: {_first_line(error)}") from None
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"the trainer refuses it: {_first_line(error)}") from None
    trainer.remove_callback(PrinterCallback)
    return trainer


def _peft_config(config: TrainConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    settings = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", **config.lora}
    try:
        return LoraConfig(**settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora: {_first_line(error)}") from None


def _about(plan: Plan) -> dict[str, Any]:
    groups = plan.groups
    return {
        "ktodata": __version__,
        "versions": {
            name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
        },
        "config": plan.config.model_dump(mode="json"),
        "steps": plan.num_steps,
        "balance": plan.balance.balance,
        "groups": {
            "number": len(groups),
            "smallest": groups.smallest,
            "largest": groups.largest,
            "self_pairs": groups.num_self_pairs,
            "cut_kl_sequences": groups.num_cut,
            "padding_share": round(groups.padding_share, 4),
        },
    }


@contextmanager
def _writing_to(output: Path) -> Iterator[None]:
    """Makes one line of a full disk, of a full device, and of what a data worker found wrong."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write to {output}: {_first_line(error)}", hint="free some space, then --resume auto"
        ) from None
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device is out of memory: {_first_line(error)}",
            hint="a smaller kto.per_device_train_batch_size, reference: cached, or lora: {r: 16}",
        ) from None
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise InputError(
            f"cannot write to {output}: the disk is full", hint="free some space, then --resume auto"
        ) from None
    except KtoDataError as error:
        raise _from_worker(error) from None


def _from_worker(error: KtoDataError) -> KtoDataError:
    """The error itself: torch hands on what a data worker raises with the worker's traceback as its text."""
    name = f"{type(error).__name__}: "
    if "Original Traceback" not in error.what:
        return error
    error.what = error.what.rpartition(name)[2].strip()
    return error


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries' warnings and progress bars out of the way; errors stay."""
    import warnings

    import datasets
    import transformers

    verbosity = transformers.utils.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
            transformers.utils.logging.enable_progress_bar()
            datasets.enable_progress_bars()


@contextmanager
def _library_messages(say: Any) -> Iterator[None]:
    """What this package logs, said as everything else is."""
    handler = _Saying(say)
    logger = logging.getLogger("kto_train")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Saying(logging.Handler):
    def __init__(self, say: Any) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__).splitlines()[0]

"""The run: settings to a trained model.

    TrainConfig ─▶ checks ─▶ Plan ─▶ trainer ─▶ checkpoints, metrics, curves ─▶ model

Everything that can be told without the weights is told before they are read.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_data.errors import ConfigError, DivergedError, ExitCode, ModelError, first_line
from kto_data.progress import StepBar
from kto_data.training import NO_KL_LOSS
from kto_train import checks
from kto_train.checkpoint import remove_unfinished, step_of
from kto_train.config import TrainConfig, write_config
from kto_train.libraries import quiet_libraries, saying_messages
from kto_train.plan import Plan, make_plan
from kto_train.run_record import CONFIG_NAME, RunRecord, checkpoint_to_resume, what_matters

if TYPE_CHECKING:
    from kto_train.stopping import StopSignals
    from kto_train.trainer import CachedKTOTrainer


def run(config: TrainConfig, *, dry_run: bool, say: Any) -> int:
    """Train; returns the exit code. Raises `KtoDataError` for all that is wrong with what was asked for."""
    check_installed()
    if not _is_main_process():
        say = _nothing  # under torchrun, one voice is enough
    from kto_train.faults import told_memory, told_peers

    with told_memory(), told_peers():
        plan = make_plan(config)
    for line in plan.lines():
        say(line)
    if dry_run:
        from kto_train.memory import memory_lines

        for line in memory_lines(plan):
            say(line)
        return ExitCode.OK
    return _train(plan, say)


def check_installed() -> None:
    """Raises `ConfigError` and `MissingExtraError` for what is installed and what is not."""
    # Before any import that reads it: loaders fork their workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    checks.check_installed()


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _nothing(line: str) -> None:
    pass


def _train(plan: Plan, say: Any) -> int:
    from kto_train.faults import told_faults
    from kto_train.guard import FiniteGuard
    from kto_train.monitor import Monitor
    from kto_train.step_rows import StepRows
    from kto_train.stopping import StopSignals
    from kto_train.together import check_alike, what_is_shared
    from kto_train.watches import Training

    config, output, args = plan.config, Path(plan.config.output_dir), plan.args
    record = RunRecord(matters=_matters(plan) if _is_main_process() else {}, about=plan.about())
    with told_faults(output):
        check_alike(what_is_shared(config, plan.cache.manifest.fingerprint))
        checkpoint = _checkpoint(plan, record, say)
    rows = StepRows(plan.groups, config.seed, args.gradient_accumulation_steps * args.world_size)
    training = Training(beta=args.beta, has_kl=args.loss_type != NO_KL_LOSS)
    with (
        StepBar(say, enabled=_is_main_process()) as bar,
        told_faults(output),
        StopSignals(bar.say) as signals,
        quiet_libraries(),
        saying_messages(bar.say),
    ):
        if _is_main_process():
            output.mkdir(parents=True, exist_ok=True)
            write_config(config.model_copy(update={"resume": None}), output / CONFIG_NAME)
            record.write(output)
        monitor = Monitor(output, bar, rows=rows, training=training, record=record)
        guard = FiniteGuard(rows, cache=config.cache, output=output)
        trainer = _make_trainer(plan, [monitor, guard, signals])
        if checkpoint is not None:
            bar.say(f"resumed from {checkpoint}, step {step_of(checkpoint)}")
        status = "failed"
        try:
            status = _train_and_save(trainer, checkpoint, signals)
        except DivergedError:
            status = "diverged"
            raise
        finally:
            if _is_main_process():
                monitor.finish(replace(record, status=status))
        monitor.attempt(trainer.accelerator.end_training, "the last of kto.report_to")
    if status == "interrupted":
        say(f"interrupted; {_next_command(plan)}")
        return ExitCode.INTERRUPTED
    say(f"{'adapter' if config.lora is not None else 'model'} saved in {output}, curves in {output / 'report.html'}")
    return ExitCode.OK


def _next_command(plan: Plan) -> str:
    if plan.args.save_only_model:
        return "it cannot be gone on with: kto.save_only_model"
    return f"to go on: ktodata train --config {Path(plan.config.output_dir) / CONFIG_NAME} --resume auto"


def _train_and_save(trainer: CachedKTOTrainer, checkpoint: Path | None, signals: StopSignals) -> str:
    """Train, then save the model; returns how the run ended.

    The model is saved too where something goes wrong after the last step, such as a disk that has no room for the
    last checkpoint: of all that is written then, it is the one thing that cannot be had again. One that has diverged
    is no result, and is not saved.
    """
    is_whole = has_diverged = False
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        is_whole = not signals.stopped
    except DivergedError:
        has_diverged = True
        raise
    finally:
        is_last_step_done = trainer.state.global_step >= trainer.state.max_steps > 0
        if is_last_step_done and not is_whole and not has_diverged:
            is_whole = True
            remove_unfinished(Path(trainer.args.output_dir), trainer.state.global_step)
        if is_whole:
            trainer.save_model()
    return "finished" if is_whole else "interrupted"


def _matters(plan: Plan) -> dict[str, Any]:
    from kto_train.collate import image_backend

    return what_matters(
        plan.config,
        cache_fingerprint=plan.cache.manifest.fingerprint,
        num_ranks=plan.args.world_size,
        loss_weights=(plan.balance.desirable_weight, plan.balance.undesirable_weight),
        image_backend=image_backend(plan.processor),
    )


def _checkpoint(plan: Plan, record: RunRecord, say: Any) -> Path | None:
    """What is gone on from. The main process looks through the checkpoints, and tells the others."""
    from kto_train.together import agreed_checkpoint

    found = None
    if _is_main_process():
        found, passed_over = checkpoint_to_resume(plan.config, record.matters)
        for line in passed_over:
            say(line)
        _check_steps_are_left(found, plan.num_steps)
    return agreed_checkpoint(found)


def _check_steps_are_left(checkpoint: Path | None, num_steps: int) -> None:
    if checkpoint is not None and step_of(checkpoint) > num_steps:
        raise ConfigError(
            f"{checkpoint} is of step {step_of(checkpoint):,}, and the run is to have {num_steps:,}",
            hint="more kto.max_steps or kto.num_train_epochs, or --resume with an earlier checkpoint",
        )


def _make_trainer(plan: Plan, callbacks: list[Any]) -> CachedKTOTrainer:
    from transformers import PrinterCallback

    from kto_train.strategy import lora_config, quantization_config
    from kto_train.trainer import CachedKTOTrainer

    config = plan.config
    beside = plan.cache.path / "reference"
    try:
        trainer = CachedKTOTrainer(
            config.model,
            cache=plan.cache,
            args=plan.args,
            processor=plan.processor,
            groups=plan.groups,
            eval_groups=plan.eval_groups,
            group_by_length=config.group_by_length,
            reference_folder=beside if os.access(plan.cache.path, os.W_OK) else Path(config.output_dir) / "reference",
            freeze=config.freeze,
            quantization_config=quantization_config(config),
            peft_config=lora_config(config),
            callbacks=callbacks,
        )
    except ConnectionError as error:  # `push_to_hub` makes its repository first
        raise ConfigError(f"the hub cannot be reached: {first_line(error)}") from None
    except OSError as error:
        if error.errno is not None:  # the system's own: a full disk, a missing permission
            raise
        raise ModelError(f"{config.model} cannot be loaded: {first_line(error)}") from None
    except (ValueError, NotImplementedError) as error:  # how TRL and peft refuse settings that do not go together
        raise ConfigError(f"the trainer refuses it: {first_line(error)}") from None
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) or "model_init_kwargs" not in config.kto:
            raise
        raise ConfigError(f"kto.model_init_kwargs: {first_line(error)}") from None
    trainer.remove_callback(PrinterCallback)
    return trainer

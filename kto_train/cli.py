"""`ktodata train`: joins the program through the entry-point group `ktodata.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kto_data.errors import ExitCode, UsageError
from kto_train import config_commands
from kto_train.peers import LostPeerError, is_left_to_launcher


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command()(train)
    app.add_typer(config_commands.app, name="config")


def train(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; the options below override it.")] = None,
    *,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting: --set kto.beta=0.2.")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="Folder or URL of a cache that `ktodata preprocess` made.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, metrics and the trained model.")] = None,
    image_root: Annotated[str | None, typer.Option(help="Where image paths start, if not where they did.")] = None,
    epochs: Annotated[float | None, typer.Option(help="kto.num_train_epochs")] = None,
    max_steps: Annotated[int | None, typer.Option(help="kto.max_steps")] = None,
    batch_size: Annotated[int | None, typer.Option(help="kto.per_device_train_batch_size and …eval_batch_size")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="kto.learning_rate")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="lora.r; trains an adapter instead of all weights.")] = None,
    deepspeed: Annotated[str | None, typer.Option(help="z2, z3, z3-offload, or a configuration file.")] = None,
    resume: Annotated[str | None, typer.Option(help="auto, or a checkpoint: go on with an earlier run.")] = None,
    num_processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on all machines.", show_default="one a device")
    ] = None,
    num_machines: Annotated[int, typer.Option(min=1, help="Machines; start the command on each.")] = 1,
    machine_rank: Annotated[int, typer.Option(min=0, help="Which of the machines this is, from 0.")] = 0,
    main_process_ip: Annotated[str | None, typer.Option(help="Address of machine 0.")] = None,
    main_process_port: Annotated[int | None, typer.Option(help="A port that is free there.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; load no weights.")
    ] = False,
) -> int:
    """Train a model with KTO from a cache, by TRL's own trainer.

    Every setting has a place in the YAML file; any field of TRL's KTOConfig goes under `kto`. All devices of the
    machine are used. torchrun -m kto_train … and accelerate launch -m kto_train … start it too.
    """
    from kto_train import launch
    from kto_train.config import apply_setting, make_config, read_config, set_key
    from kto_train.train import check_installed, run

    settings: dict[str, Any] = read_config(config) if config is not None else {}
    for assignment in set_ or []:
        apply_setting(settings, assignment)
    options = {
        "cache": cache,
        "model": model,
        "output_dir": output,
        "image_root": image_root,
        "resume": resume,
        "kto.num_train_epochs": epochs,
        "kto.max_steps": max_steps,
        "kto.per_device_train_batch_size": batch_size,
        "kto.per_device_eval_batch_size": batch_size,
        "kto.learning_rate": learning_rate,
        "lora.r": lora_rank,
        "deepspeed": deepspeed,
    }
    given = {assignment.partition("=")[0] for assignment in set_ or []}
    for key, value in options.items():
        if value is not None:
            if key in given:
                raise UsageError(
                    f"{key} is given twice: by --set, and by an option that stands for it", hint="give one of the two"
                )
            set_key(settings, key.split("."), value)
    checked = make_config(settings)
    check_installed()
    machines = launch.machines_for(
        *(num_processes, num_machines, machine_rank, main_process_ip, main_process_port),
        needs_launcher=checked.deepspeed is not None or bool(checked.kto.get("fsdp")),
    )
    if machines is not None:
        return launch.launch(settings, machines, dry_run=dry_run, say=_say)
    try:
        return run(checked, dry_run=dry_run, say=_say)
    except LostPeerError as error:
        if not is_left_to_launcher(error):
            raise
        return ExitCode.USAGE


def _say(line: str) -> None:
    """Progress goes to standard error, as it comes."""
    typer.echo(line, err=True)

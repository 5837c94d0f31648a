"""`ktodata train`: joins the program through the entry-point group `ktodata.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(train)


def train(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; the options below override it.")] = None,
    *,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting: --set kto.beta=0.2.")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="Folder that `ktodata preprocess` made.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder for checkpoints, metrics and the trained model.")] = None,
    image_root: Annotated[str | None, typer.Option(help="Where image paths start, if not where they did.")] = None,
    epochs: Annotated[float | None, typer.Option(help="kto.num_train_epochs")] = None,
    max_steps: Annotated[int | None, typer.Option(help="kto.max_steps")] = None,
    batch_size: Annotated[int | None, typer.Option(help="kto.per_device_train_batch_size and …eval_batch_size")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="kto.learning_rate")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="lora.r; trains an adapter instead of all weights.")] = None,
    resume: Annotated[str | None, typer.Option(help="auto, or a checkpoint: go on with an earlier run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; load no weights.")
    ] = False,
) -> int:
    """Train a model with KTO from a cache, by TRL's own trainer.

    Every setting has a place in the YAML file; any field of TRL's KTOConfig goes under `kto`.
    """
    from kto_train.config import apply_setting, make_config, read_config, set_key
    from kto_train.train import run

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
    }
    for key, value in options.items():
        if value is not None:
            set_key(settings, key.split("."), value)
    # Progress goes to standard error, as it comes.
    return run(make_config(settings), dry_run=dry_run, say=lambda line: typer.echo(line, err=True))

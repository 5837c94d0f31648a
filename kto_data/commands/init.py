"""`ktodata init`: settings, a pre-commit hook and a workflow for the repository one is in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kto_data.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The repository.")] = Path(),
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written, and write nothing.")] = False,
) -> None:
    """Set a repository up: settings, a pre-commit hook and a GitHub workflow.

    Nothing that is there is overwritten, and a second run changes nothing.
    """
    from kto_data.init import plan

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="name the folder of the repository")
    for step in plan(folder):
        if not step.added:
            typer.echo(f"left {step.path}: {step.left}")
        elif dry_run:
            typer.echo(f"would {'write' if step.is_new else 'add to'} {step.path}:\n{step.added}")
        else:
            is_new = step.is_new
            step.write()
            typer.echo(f"{'wrote' if is_new else 'added to'} {step.path}")

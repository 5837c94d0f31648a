"""`ktodata config …`: training settings from elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kto_train.llamafactory import Imported

app = typer.Typer(no_args_is_help=True, help="Settings of a training, from elsewhere.")


@app.callback()
def root() -> None:
    """Settings of a training, from elsewhere."""


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LLaMA-Factory training file with `stage: kto`.")],
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; standard output else.")] = None,
) -> None:
    """Translate a LLaMA-Factory training file.

    Prints the settings for `ktodata train --config`, and in comments above them the `ktodata preprocess` that belongs
    to them and every key that has no counterpart. Its defaults are written out where ours are others.
    """
    from kto_data.errors import ConfigError
    from kto_data.writing import write_whole
    from kto_train.bounds import value_problems
    from kto_train.config import make_config, read_config, to_yaml
    from kto_train.llamafactory import import_config
    from kto_train.outlook import KTO_CLASSES, field_names

    imported = import_config(read_config(file), kto_fields=field_names(KTO_CLASSES) or ())
    make_config(imported.settings)  # what is written can be read
    for problem in value_problems(imported.settings.get("kto", {})):
        raise ConfigError(problem.message, hint=problem.hint)
    text = "".join(f"{line}\n" for line in _comments(file, imported)) + to_yaml(imported.settings)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_whole(output, text.encode())
    for line in _comments(file, imported):
        typer.echo(line.removeprefix("# "), err=True)
    typer.echo(f"written to {output}", err=True)


def _comments(file: Path, imported: Imported) -> Iterator[str]:
    yield f"# From {file}, a file of LLaMA-Factory."
    yield "# Its cache is made by:"
    yield f"#   ktodata preprocess {shlex.join(imported.preprocess)}"
    if imported.defaults:
        yield f"# Not in the file, and written out because our defaults are others: {', '.join(imported.defaults)}"
    for title, keys in (
        ("Look at", imported.changed),
        ("No counterpart", imported.lost),
        ("Not needed", imported.needless),
    ):
        if keys:
            yield f"# {title}:"
        for key, told in keys.items():
            yield f"#   {key}: {told}"

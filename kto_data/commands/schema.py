"""`ktodata schema`: the JSON Schemas of what the project reads and writes."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from kto_data.errors import InputError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(schema)


def schema(
    name: Annotated[str | None, typer.Argument(help="record, finding, report, baseline, manifest or balance.")] = None,
    *,
    write: Annotated[Path | None, typer.Option(help="Write every schema into this folder.")] = None,
) -> None:
    """Print the JSON Schema of a record, or of a file that is written: reports, baseline, manifest, label balance."""
    from kto_data.schema import SCHEMAS, schema_text

    if (name is None) == (write is None):
        raise UsageError("name a schema, or a folder with --write", hint=f"the schemas are {', '.join(SCHEMAS)}")
    if write is not None:
        try:
            write.mkdir(parents=True, exist_ok=True)
            for each in SCHEMAS:
                (write / f"{each}.json").write_text(schema_text(each), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write into {write}: {error.strerror}", hint="name a folder") from None
        return
    assert name is not None
    if name not in SCHEMAS:
        close = difflib.get_close_matches(name, SCHEMAS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the schemas are {', '.join(SCHEMAS)}"
        raise UsageError(f"no schema has the name '{name}'", hint=hint)
    sys.stdout.write(schema_text(name))

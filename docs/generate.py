"""Writes the pages of `docs/` that are made from the code: rules, command line, schemas.

    python docs/generate.py

`make generated` runs it; a test holds what is in the repository against what it would write.
"""

from __future__ import annotations

import json
from pathlib import Path

import typer
from jsonschema2md import Parser
from typer.cli import get_docs_for_click

from kto_data.cli import build_app
from kto_data.report.pages import rule_index, rule_page
from kto_data.rules import ALL_RULES
from kto_data.schema import SCHEMAS, schema_text

DOCS = Path(__file__).parent
_MADE = "<!-- made by `make generated` -->\n\n"


def main() -> None:
    """Write every page, and remove those of rules that are gone."""
    wanted = pages()
    for path in (*DOCS.glob("rules/*.md"), *DOCS.glob("schemas/*.md")):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    return {
        DOCS / "cli.md": _MADE + command_line(),
        **{DOCS / "schemas" / f"{name}.md": _MADE + schema_page(name) for name in SCHEMAS},
        DOCS / "rules" / "README.md": _MADE + rule_index(ALL_RULES),
        **{DOCS / "rules" / f"{rule.code}.md": f"{_MADE}{rule_page(rule)}\n" for rule in ALL_RULES},
    }


def command_line() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(build_app())
    context = command.make_context("ktodata", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="ktodata", title="Command line")
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def schema_page(name: str) -> str:
    """One published JSON Schema, field by field."""
    lines = Parser(show_examples="all").parse_schema(json.loads(schema_text(name)))
    return "".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()

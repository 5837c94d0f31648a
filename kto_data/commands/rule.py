"""`ktodata rule`: what a rule wants, why, and a bad and a good example."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kto_data.commands import completion
from kto_data.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(rule)


def rule(
    code: Annotated[
        str | None, typer.Argument(help="Code, prefix of codes, or name of a rule.", autocompletion=completion.rules)
    ] = None,
    *,
    all_rules: Annotated[bool, typer.Option("--all", help="List every rule; with --markdown, explain it.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Explain a rule of `ktodata validate`."""
    from kto_data.report.pages import markdown_page, rule_list, terminal_page
    from kto_data.rules import ALL_RULES
    from kto_data.rules.selection import find_rules

    if bool(code) == all_rules:
        raise UsageError("name a rule, or ask for --all of them", hint="ktodata rule KTO305")
    rules = find_rules(code) if code else ALL_RULES
    if markdown:
        text = markdown_page(rules)
    elif all_rules:
        text = rule_list(rules)
    else:
        text = "\n".join(map(terminal_page, rules))
    sys.stdout.write(text)

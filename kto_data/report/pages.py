"""The pages of the rules, made from their docstrings: in the terminal, and as `docs/rules.md`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kto_data.rules.base import AnyRule

_FAMILIES = {
    "KTO1": "Bytes, JSON and fields",
    "KTO2": "Images",
    "KTO3": "Messages",
    "KTO4": "Labels",
    "KTO6": "Duplicates",
}
_EXAMPLE = re.compile(r"^(Bad|Good):\s+(.*?)(?=^(?:Bad|Good):|\Z)", re.MULTILINE | re.DOTALL)


def terminal_page(rule: AnyRule) -> str:
    """One rule as plain text."""
    return f"{rule.code} {rule.name}\n{_facts(rule)}\n\n{rule.doc}\n"


def rule_list(rules: Sequence[AnyRule]) -> str:
    """One line a rule: code, name, severity, what must hold."""
    width = max(len(rule.name) for rule in rules)
    return "".join(
        f"{rule.code}{' ' if rule.default else '*'} {rule.name:<{width}}  {rule.severity.value:<7}  {_title(rule)}\n"
        for rule in rules
    ) + ("* runs when it is selected\n" if any(not rule.default for rule in rules) else "")


def markdown_page(rules: Sequence[AnyRule]) -> str:
    """The rules as one Markdown page, by family."""
    lines = [
        "# Rules",
        "",
        "What `ktodata validate` checks. Made from the rules themselves by `ktodata rule --all --markdown`.",
    ]
    family = ""
    for rule in rules:
        if rule.code[:4] != family:
            family = rule.code[:4]
            lines += ["", f"## {family}xx: {_FAMILIES[family]}"]
        lines += [
            "",
            f"### {rule.code} {rule.name}",
            "",
            f"*{_facts(rule)}*",
            "",
            _EXAMPLE.split(rule.doc)[0].strip(),
            "",
        ]
        lines += [f"- **{kind}:** {' '.join(text.split())}" for kind, text in _EXAMPLE.findall(rule.doc)]
    return "\n".join(lines) + "\n"


def _title(rule: AnyRule) -> str:
    return rule.doc.partition("\n")[0]


def _facts(rule: AnyRule) -> str:
    runs = "" if rule.default else " · runs when it is selected"
    needs = "" if rule.needs.value == "off" else f" · needs --images {rule.needs.value}"
    return f"{rule.severity.value} · {rule.stage.value} · fix: {rule.fix.value}{needs}{runs}"

"""The pages of the rules, made from their docstrings: in the terminal, and in `docs/rules/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from kto_data.rules.base import AnyRule

_FAMILIES = {
    "KTO1": "Bytes, JSON and fields",
    "KTO2": "Images",
    "KTO3": "Messages",
    "KTO4": "Labels",
    "KTO5": "Tokens of a model",
    "KTO6": "Duplicates and leakage",
    "KTO7": "Configuration of a training",
    "KTO8": "Secrets, personal data, refusals",
    "KTO9": "The run itself",
}
_EXAMPLE = re.compile(r"^(Bad|Good):\s+(.*?)(?=^(?:Bad|Good):|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class RuleParts:
    """The docstring of a rule, taken apart."""

    title: str  # what must hold
    reason: str  # why; empty where the title says it all
    examples: tuple[tuple[str, str], ...]  # ("Bad" or "Good", the example)


def rule_parts(rule: AnyRule) -> RuleParts:
    """What the page of a rule consists of."""
    title, _, reason = _EXAMPLE.split(rule.doc)[0].partition("\n")
    examples = tuple((kind, " ".join(text.split())) for kind, text in _EXAMPLE.findall(rule.doc))
    return RuleParts(title, " ".join(reason.split()), examples)


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
    lines = ["# Rules", ""]
    for family, members in _by_family(rules):
        lines += [f"## {_family_title(family)}", ""]
        for rule in members:
            lines += [rule_page(rule, level=3), ""]
    return "\n".join(lines).rstrip() + "\n"


def rule_page(rule: AnyRule, *, level: int = 1) -> str:
    """One rule in Markdown, under a heading of `level`; without a newline at its end."""
    lines = [f"{'#' * level} {rule.code} {rule.name}", "", f"*{_facts(rule)}*", "", _EXAMPLE.split(rule.doc)[0].strip()]
    return "\n".join(
        [*lines, "", *(f"- **{kind}:** {' '.join(text.split())}" for kind, text in _EXAMPLE.findall(rule.doc))]
    )


def rule_index(rules: Sequence[AnyRule]) -> str:
    """A Markdown page with a table a family, each rule with a link to `<code>.md`."""
    lines = ["# Rules", "", "What `ktodata validate` checks. Rules in *italics* run when they are selected."]
    for family, members in _by_family(rules):
        lines += [
            "",
            f"## {_family_title(family)}",
            "",
            "| rule | severity | fix | what must hold |",
            "|---|---|---|---|",
        ]
        for rule in members:
            name = f"[{rule.code} {rule.name}]({rule.code}.md)"
            name = name if rule.default else f"*{name}*"
            lines.append(
                f"| {name} | {rule.severity.value} | {rule.fix.value} | {_title(rule).replace('|', chr(92) + '|')} |"
            )
    return "\n".join(lines) + "\n"


def _by_family(rules: Sequence[AnyRule]) -> Iterator[tuple[str, list[AnyRule]]]:
    for family, members in groupby(rules, key=lambda rule: rule.code[:4]):
        yield family, list(members)


def _family_title(family: str) -> str:
    return f"{family}xx: {_FAMILIES[family]}"


def _title(rule: AnyRule) -> str:
    return rule.doc.partition("\n")[0]


def _facts(rule: AnyRule) -> str:
    runs = "" if rule.default else " · runs when it is selected"
    needs = "" if rule.needs.value == "off" else f" · needs --images {rule.needs.value}"
    needs += f" · {rule.requires.value}" if rule.requires else ""
    return f"{rule.severity.value} · {rule.stage.value} · fix: {rule.fix.value}{needs}{runs}"

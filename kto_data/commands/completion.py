"""What the shell offers for a word that is begun: `ktodata --install-completion` sets it up."""

from __future__ import annotations

from typing import get_args

from kto_data import choices

Offer = tuple[str, str]
"""A word, and what it means, where the shell shows that."""


def rules(incomplete: str) -> list[Offer]:
    """Codes, prefixes and names of rules; of a comma-separated list the last of its words."""
    from kto_data.rules import ALL_RULES

    before, comma, word = incomplete.rpartition(",")
    families = {rule.code[:4]: f"all {rule.code[:4]}xx rules" for rule in ALL_RULES}
    offers = {**({} if len(word) > len("KTO") else families), **{rule.code: rule.name for rule in ALL_RULES}}
    found = [(code, meaning) for code, meaning in offers.items() if code.startswith(word)]
    if not found:
        found = [(rule.name, rule.code) for rule in ALL_RULES if rule.name.startswith(word)]
    return [(f"{before}{comma}{offer}", meaning) for offer, meaning in found]


def severities(incomplete: str) -> list[Offer]:
    """`CODE=LEVEL`: the codes, then the levels."""
    code, equals, level = incomplete.partition("=")
    if not equals:
        return [(f"{word}=", meaning) for word, meaning in rules(incomplete)]
    return [(f"{code}={word}", "") for word in get_args(choices.FailLevel) if word.startswith(level)]


def record_formats(incomplete: str) -> list[Offer]:
    """Formats of records."""
    from kto_data.formats import Format

    return [(word, "") for word in ("auto", *map(str, Format)) if word.startswith(incomplete)]


def reports(incomplete: str) -> list[Offer]:
    """`FORMAT:PATH`: the formats."""
    return [(f"{word}:", "") for word in get_args(choices.OutputFormat) if word.startswith(incomplete)]

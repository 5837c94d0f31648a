"""Which rules run: `--select`, `--ignore` and `--extend-select`, by code or prefix of a code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from kto_data.errors import UsageError
from kto_data.rules import ALL_RULES
from kto_data.rules.base import AnyRule

Value = TypeVar("Value")


def select_rules(
    *, select: Iterable[str] = (), ignore: Iterable[str] = (), extend_select: Iterable[str] = ()
) -> tuple[AnyRule, ...]:
    """The rules asked for, in the order of their codes.

    Each entry is a code or a prefix (`KTO2`; `KTO` is every rule, those not on by default too). Where a rule is both
    selected and ignored the longer prefix wins, and of equal ones the ignoring. Without `select`, the default rules
    stand. Raises `UsageError` for what matches no rule.
    """
    select, ignore, extend_select = (_prefixes(given) for given in (select, ignore, extend_select))
    chosen = []
    for rule in ALL_RULES:
        wanted = _longest_match((*select, *extend_select), rule)
        if not select and rule.default:
            wanted = max(wanted, 0)
        if wanted > _longest_match(ignore, rule):
            chosen.append(rule)
    return tuple(chosen)


def find_rules(prefix: str) -> tuple[AnyRule, ...]:
    """The rules whose code starts with `prefix`, or the one with that name. Raises `UsageError` where there is none."""
    (code,) = _prefixes([prefix]) or ("",)
    return tuple(rule for rule in ALL_RULES if rule.code.startswith(code))


def codes_of(words: Iterable[str]) -> frozenset[str]:
    """The codes that codes, prefixes and names stand for. Raises `UsageError` for what matches no rule."""
    prefixes = _prefixes(words)
    return frozenset(rule.code for rule in ALL_RULES if rule.code.startswith(prefixes))


def by_code(values: Mapping[str, Value]) -> dict[str, Value]:
    """What is said of codes, prefixes and names, by code: of a rule the longest prefix counts."""
    said = sorted(((_prefixes([word]), value) for word, value in values.items()), key=lambda pair: len(pair[0][0]))
    return {rule.code: value for prefixes, value in said for rule in ALL_RULES if rule.code.startswith(prefixes)}


def _prefixes(given: Iterable[str]) -> tuple[str, ...]:
    words = [word.strip() for entry in given for word in entry.split(",")]
    return tuple(_code(word) for word in words if word)


def _code(word: str) -> str:
    code = word.upper()
    if any(rule.code.startswith(code) for rule in ALL_RULES):
        return code
    by_name = {rule.name: rule.code for rule in ALL_RULES}
    if word.lower() in by_name:
        return by_name[word.lower()]
    close = difflib.get_close_matches(code, [rule.code for rule in ALL_RULES], n=1, cutoff=0.7)
    close_name = difflib.get_close_matches(word.lower(), by_name, n=1, cutoff=0.7)
    likely = close or [by_name[name] for name in close_name]
    raise UsageError(
        f"no rule has the code '{word}'",
        hint=f"did you mean {likely[0]}?" if likely else "ktodata rule --all lists the rules",
    )


def _longest_match(prefixes: Iterable[str], rule: AnyRule) -> int:
    return max((len(prefix) for prefix in prefixes if rule.code.startswith(prefix)), default=-1)

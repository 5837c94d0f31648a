"""KTO801 and KTO802: what a model should not learn by heart. No message holds what was found."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.row import MessageView, Row
from kto_data.rules.base import Defect, Stage, rule
from kto_data.rules.private import PERSONAL_DATA, SECRETS, Look, count_kinds
from kto_data.rules.words import counted


@rule("KTO801", "secret", Severity.WARNING, Stage.ROW, default=False)
def secret(row: Row) -> Iterator[Defect]:
    """Text should hold no keys, tokens or passwords.

    A model gives away what it was trained on, and the data itself goes through many hands. Found are the spellings
    that well-known services give their keys; a password that looks like any word is not. The message never shows what
    was found: revoke it, then take it out.

    Bad:  a completion with a GitHub token that works
    Good: a completion with `ghp_xxxxxxxxxxxx`
    """
    for message in row.messages:
        yield from _found(message, SECRETS)


@rule("KTO802", "personal-data", Severity.WARNING, Stage.ROW, default=False)
def personal_data(row: Row) -> Iterator[Defect]:
    """Text should hold no personal data.

    E-mail addresses, phone numbers, card numbers and bank accounts whose check digits are right, and US social
    security numbers. Addresses of roles and of example domains, toll-free and fictional numbers are left out. Names
    are not found. The message never shows what was found.

    Bad:  a completion with somebody's phone number
    Good: a completion with `name@example.org`
    """
    for message in row.messages:
        yield from _found(message, PERSONAL_DATA)


def _found(message: MessageView, looks: tuple[Look, ...]) -> Iterator[Defect]:
    """What the text of a message holds of each kind, without a character of it."""
    for name, count in count_kinds(message.text or "", looks).items():
        times = f", {counted(count, 'time')}" if count > 1 else ""
        yield Defect(
            f"the text holds what looks like {name}{times}",
            f"/messages/{message.index}/content",
            data=(("kind", name.partition(" ")[2]), ("count", count)),
        )

"""What keys, passwords and personal data look like.

Every repetition has an upper bound, or starts where no other match can: the time taken grows with the text, never with
its square.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """One kind of thing to look for: where it may be, and whether what is there is it."""

    name: str  # with its article
    pattern: re.Pattern[str]
    is_it: Callable[[str], bool] = lambda text: True
    markers: tuple[str, ...] = ("",)  # a text without any of them holds none


def count_kinds(text: str, looks: tuple[Look, ...]) -> Counter[str]:
    """How many of each kind a text holds, by name."""
    found = Counter[str]()
    for look in looks:
        if any(marker in text for marker in look.markers):
            count = sum(look.is_it(match[0]) for match in look.pattern.finditer(text))
            if count:
                found[look.name] += count
    return found


_PLACEHOLDERS = ("example", "xxxx", "your", "1234567", "abcdef")


def _is_varied(text: str) -> bool:
    """Whether this may be random: placeholders repeat themselves, or say what they are."""
    low = text.lower()
    return len(set(low[-20:])) >= 8 and not any(word in low for word in _PLACEHOLDERS)


def _is_password(url: str) -> bool:
    password = url.rpartition("@")[0].rpartition(":")[2].lower()
    words = ("pass", "pwd", "secret", "token", *_PLACEHOLDERS)
    return len(set(password)) >= 5 and not any(word in password for word in words)


def _key(name: str, pattern: str, *markers: str) -> Look:
    return Look(name, re.compile(rf"(?<![A-Za-z0-9_-]){pattern}(?![A-Za-z0-9_-])"), _is_varied, markers)


SECRETS = (
    Look(
        "a private key",
        re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,2}PRIVATE KEY(?: BLOCK)?-----\s{0,9}[A-Za-z0-9+/]{20}"),
        markers=("-----BEGIN ",),
    ),
    _key("an AWS access key", r"(?:AKIA|ASIA)[A-Z2-7]{16}", "AKIA", "ASIA"),
    _key(
        "a GitHub token",
        r"(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,100})",
        *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    _key("a GitLab token", r"glpat-[A-Za-z0-9_-]{20,64}", "glpat-"),
    _key("a Hugging Face token", r"hf_[A-Za-z]{34}", "hf_"),
    _key("an Anthropic key", r"sk-ant-[A-Za-z0-9_-]{32,200}", "sk-ant-"),
    _key("an OpenAI key", r"sk-(?:[A-Za-z0-9]{48}|(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,200})", "sk-"),
    _key("a Google API key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    _key("a Slack token", r"xox[abeoprs]-[A-Za-z0-9-]{20,200}", "xox"),
    _key("a Stripe key", r"[rs]k_live_[A-Za-z0-9]{24,100}", "k_live_"),
    _key("a SendGrid key", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", "SG."),
    _key("an npm token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _key("a PyPI token", r"pypi-AgE[A-Za-z0-9_-]{50,250}", "pypi-AgE"),
    _key("a JSON Web Token", r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{20,1000}", "eyJ"),
    Look(
        "a password in a URL",
        re.compile(r"(?<![A-Za-z0-9+])[a-z][a-z0-9+]{1,15}://[^\s/:@\"'<>]{1,64}:[^\s/:@\"'<>${}\[\]]{6,64}@[a-z0-9]"),
        _is_password,
        ("://",),
    ),
)
"""Keys by the spelling that each service gives its own, so that none is mistaken for anything else."""


_ROLES = frozenset(
    "admin billing contact enquiries feedback hello help info jobs mail marketing me media name newsletter no-reply"
    " noreply office postmaster press privacy sales security service someone support team user username webmaster"
    " you".split()
)
_NOBODYS_DOMAIN = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local)$|(?:^|\.)(?:example|domain|company|yourdomain)\.[a-z]+$"
)
_TOLL_FREE = frozenset({"800", "833", "844", "855", "866", "877", "888"})


def _is_persons_address(address: str) -> bool:
    name, _, domain = address.lower().partition("@")
    return name not in _ROLES and "your" not in address and not _NOBODYS_DOMAIN.search(domain)


def _is_phone_number(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    local = digits[-10:]
    if local[:3] in _TOLL_FREE or local[3:6] == "555":  # nobody's own, or kept for fiction
        return False
    return len(set(digits)) >= 5 and "1234567" not in digits


def _is_card_number(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) >= 5


def _is_iban(text: str) -> bool:
    code = text.replace(" ", "")
    return 15 <= len(code) <= 34 and int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


def _number(name: str, pattern: str, is_it: Callable[[str], bool]) -> Look:
    """Digits that are not part of longer ones, nor of a decimal fraction."""
    return Look(name, re.compile(rf"(?<![\w+.,-])(?:{pattern})(?![\w-]|[.,][0-9])"), is_it)


PERSONAL_DATA = (
    Look(
        "an e-mail address",
        re.compile(
            r"(?<![\w.%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
        ),
        _is_persons_address,
        ("@",),
    ),
    _number("a phone number", r"\+[1-9](?:[ .-]?\(?[0-9]\)?){8,14}", _is_phone_number),
    _number(
        "a phone number",
        r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[.-][0-9]{4}",
        _is_phone_number,
    ),
    _number(
        "a payment card number",
        r"(?<![0-9] )(?:"  # nor part of an IBAN in groups of four
        r"(?:4[0-9]{3}|5[1-5][0-9]{2}|2[2-7][0-9]{2}|6(?:011|5[0-9]{2}))(?:[ -]?[0-9]{4}){3}"
        r"|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}"
        r")(?! ?[0-9])",
        _is_card_number,
    ),
    _number("a bank account (IBAN)", r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?", _is_iban),
    _number(
        "a US social security number",
        r"(?!000|666|9|123-45-6789|078-05-1120)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}",
        lambda text: True,
    ),
)
"""Numbers whose check digits are right, and what nothing else is written like."""

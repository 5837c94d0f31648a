"""Text made fit for where it goes. Data and file names are untrusted, and hold whatever they like."""

from __future__ import annotations

import shlex


def printable(text: str) -> str:
    """Text with control characters escaped: a terminal obeys what it is sent."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def as_word(text: str) -> str:
    """A path as it is typed in a shell, within quotes where it must be."""
    return shlex.quote(printable(text))


def encodable(text: str) -> str:
    """`text` with a '?' for each half of a surrogate pair, which no encoding of text has."""
    return text.encode(errors="replace").decode()


def writable(text: str) -> str:
    """`text` with what UTF-8 cannot hold (half of a surrogate pair) written as its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

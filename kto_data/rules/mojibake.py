"""Text that was UTF-8, was read as Windows-1252 or Latin-1, and was written as UTF-8 again: `é` has become `Ã©`.

The bytes of the first UTF-8 are still there, one a character: a first one that says how many follow, and those that
follow. Ordinary text may hold such a run by chance (`Spaß“`, `Brontë…”`), so a run counts only where people would not
write it.
"""

from __future__ import annotations

import re

_HIGH = bytes(range(0x80, 0x100))
# The five bytes that Windows-1252 leaves open are what they are in Latin-1.
_WINDOWS = "".join(
    left if left != "\ufffd" else right
    for left, right in zip(_HIGH.decode("cp1252", errors="replace"), _HIGH.decode("latin-1"), strict=True)
)
_BYTES = {**dict(zip(_HIGH.decode("latin-1"), _HIGH, strict=True)), **dict(zip(_WINDOWS, _HIGH, strict=True))}
"""Characters to the bytes they were read from."""

_FOLLOWING = "".join(char for char, byte in _BYTES.items() if byte < 0xC0)
_AFTER_LETTERS = "\u00a0»«›”“’‘…–—·•™®°ºª¹²³¡¿"
"""Of those, the ones that people do write straight after a letter."""
_TELLING = "".join(char for char in _FOLLOWING if char not in _AFTER_LETTERS)

_NEXT, _TELL = f"[{re.escape(_FOLLOWING)}]", f"[{re.escape(_TELLING)}]"
_RUN = re.compile(
    # Latin, Greek, Cyrillic, Hebrew, Arabic: two bytes. `×` and `Ø` have a life of their own, and count as a pair.
    f"[ÂÃÄÅÎÏÐÑÙ]{_TELL}"
    f"|(?<=[a-zß-öø-ÿ])[ÂÃÄÅÎÏÐÑÙ]{_NEXT}"  # a capital after a small letter
    "|(?<=[0-9])Â[°º²³\u00a0]"
    "|(?<!\\S)Ã\u00a0|Å“(?=[a-z])|Ä°(?=[a-z])"  # `à` as a word, `œuvre`, `İstanbul`
    f"|(?:[×Ø]{_NEXT}){{2,}}"
    "|ï»¿"  # a byte order mark
    # Most of the others: three bytes, of which one at least is telling.
    f"|[à-ï](?={_TELL}|{_NEXT}{_TELL}){_NEXT}{{2}}"
    # Emoji: four.
    f"|[ð-ô](?={_NEXT}{{0,2}}{_TELL}){_NEXT}{{3}}"
)


def find_mojibake(text: str) -> tuple[str, str] | None:
    """The first piece of `text` that was encoded twice, and what it was before; None where there is none."""
    if text.isascii():
        return None
    for match in _RUN.finditer(text):
        piece = match[0]
        try:
            return piece, bytes(map(_BYTES.__getitem__, piece)).decode()
        except UnicodeDecodeError:  # no UTF-8 after all
            continue
    return None


def undo_mojibake(text: str) -> str:
    """The text with all such pieces as they were before; also those that were encoded more than twice."""
    while (mended := _RUN.sub(_undone, text)) != text:
        text = mended
    return text


def _undone(match: re.Match[str]) -> str:
    try:
        return bytes(map(_BYTES.__getitem__, match[0])).decode()
    except UnicodeDecodeError:
        return match[0]

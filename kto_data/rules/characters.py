"""KTO310 and KTO311: the characters that texts are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.row import Row
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.mojibake import find_mojibake
from kto_data.rules.words import counted

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""All but tab and line ends."""
_MAX_LISTED = 5


@rule("KTO310", "mojibake", Severity.WARNING, Stage.ROW, fix=Fix.UNSAFE, default=False)
def mojibake(row: Row) -> Iterator[Defect]:
    """Text should have gone through one encoding, and back.

    UTF-8 that was read as Windows-1252 is a run of accented letters and signs in place of each letter; what could not
    be read at all is U+FFFD. The model learns to write it so. Told at the first place of a message.

    Bad:  `"content": "The cafÃ© doesnâ€™t open."`
    Good: `"content": "The café doesn’t open."`
    """
    for message in row.messages:
        if not message.text:
            continue
        where = f"/messages/{message.index}/content"
        found = find_mojibake(message.text)
        if found:
            piece, meant = found
            place = message.text.index(piece) + 1
            message_text = f"'{piece}' at character {place:,} was '{meant}' before it was encoded twice"
            yield Defect(message_text, where, quotes=found, data=(("character", place),))
        elif "\ufffd" in message.text:
            place, count = message.text.index("\ufffd") + 1, message.text.count("\ufffd")
            lost = f"{counted(count, 'time')} U+FFFD, first at character {place:,}: what stood there could not be read"
            yield Defect(f"the text holds {lost}", where, data=(("character", place), ("count", count)))


@rule("KTO311", "control-characters", Severity.WARNING, Stage.ROW, fix=Fix.UNSAFE, default=False)
def control_characters(row: Row) -> Iterator[Defect]:
    r"""Text should hold no control characters but tab and line ends.

    They show nothing, and are mostly left over from terminals, PDF files and damaged conversions. Tokenizers make bytes
    of them, and the model learns to write those.

    Bad:  `"content": "\u001b[31mWrong.\u001b[0m"`
    Good: `"content": "Wrong."`
    """
    for message in row.messages:
        found = CONTROL_CHARACTERS.findall(message.text or "")
        if not found:
            continue
        kinds = list(dict.fromkeys(found))
        names = ", ".join(f"U+{ord(char):04X}" for char in kinds[:_MAX_LISTED])
        more = ", …" if len(kinds) > _MAX_LISTED else ""
        yield Defect(
            f"the text holds {counted(len(found), 'control character')}: {names}{more}",
            f"/messages/{message.index}/content",
            data=(("count", len(found)),),
        )

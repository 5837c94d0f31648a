"""What stands in a line around the texts of its messages: its frame.

A parser drops a key that is written twice, and does not tell how a text was spelled. The frame does. Most lines of a
file have one of a few frames, and to see whether a line has a certain one costs much less than counting its keys.
"""

from __future__ import annotations

from typing import NamedTuple

_TEXTS_FOLLOW = (b'"content":', b'"content": ')
_TOLD_BY = 32  # bytes of a text that it is searched for by: more take longer


class Frame(NamedTuple):
    """The frame of a valid record: outside of all strings, and without escapes.

    Another valid record has the same where each gap stands in it, and between two of them, or before `behind`, just as
    many bytes as the text there takes as a JSON string in its shortest spelling. There is then no room for another
    spelling, nor for another key.
    """

    gaps: tuple[bytes, ...]  # before each of the texts
    behind: bytes  # the last one

    @property
    def num_marks(self) -> int:
        """The quotation marks in it, each of which begins or ends a string."""
        return sum(gap.count(b'"') for gap in self.gaps) + self.behind.count(b'"')


def find_frame(line: bytes, texts: list[bytes]) -> Frame | None:
    """The frame of a valid record with these texts, given as JSON strings in their shortest spelling.

    None where a text is spelled otherwise in `line`, or what stands around the texts has an escape.
    """
    gaps = []
    start = 0
    for text in texts:
        place = line.find(text[:_TOLD_BY], start)
        if place < 0 or not line.startswith(text, place):
            return None
        gap = line[start:place]
        # With no escape, and each string that begins in it ended, a gap ends outside of strings.
        if not gap.endswith(_TEXTS_FOLLOW) or gap.count(b'"') % 2 or b"\\" in gap:
            return None
        gaps.append(gap)
        start = place + len(text)
    behind = line[start:]
    return None if b"\\" in behind else Frame(tuple(gaps), behind)

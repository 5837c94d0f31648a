"""What stands in a line around the texts of its messages and the paths of its images: its frame.

A parser drops a key that is written twice, and does not tell how a string was spelled. The frame does. Most lines of a
file have one of a few frames, and to see whether a line has a certain one costs much less than counting its keys.
"""

from __future__ import annotations

from typing import NamedTuple

_TEXT_FOLLOWS = (b'"content":', b'"content": ')
_IMAGE_FOLLOWS = (b'"images":[', b'"images": [')
_NEXT_IMAGE_FOLLOWS = (b",", b", ")
_TOLD_BY = 32  # bytes of a string that it is searched for by: more take longer


class Frame(NamedTuple):
    """The frame of a valid record: outside of all these strings, and without escapes.

    Another valid record has the same where each gap stands in it, and between two of them, or before `behind`, just as
    many bytes as the string there takes in JSON in its shortest spelling. There is then no room for another spelling,
    nor for another key.
    """

    gaps: tuple[bytes, ...]  # before each of the strings
    behind: bytes  # the last one

    @property
    def num_marks(self) -> int:
        """The quotation marks in it, each of which begins or ends a string."""
        return sum(gap.count(b'"') for gap in self.gaps) + self.behind.count(b'"')


def find_frame(line: bytes, texts: list[bytes], images: list[bytes]) -> Frame | None:
    """The frame of a valid record with these texts and images, given as JSON strings in their shortest spelling.

    None where one of them is spelled otherwise in `line`, where images come first, or where what stands around them has
    an escape.
    """
    gaps: list[bytes] = []
    start = 0
    for string in (*texts, *images):
        place = line.find(string[:_TOLD_BY], start)
        if place < 0 or not line.startswith(string, place):
            return None
        gaps.append(line[start:place])
        start = place + len(string)
    number = len(texts)
    if not (
        all(gap.endswith(_TEXT_FOLLOWS) for gap in gaps[:number])
        and all(gap.endswith(_IMAGE_FOLLOWS) for gap in gaps[number : number + 1])
        and all(gap in _NEXT_IMAGE_FOLLOWS for gap in gaps[number + 1 :])
    ):
        return None
    frame = Frame(tuple(gaps), line[start:])
    # With no escape, and each string that begins in it ended, a gap ends outside of strings.
    is_sound = all(gap.count(b'"') % 2 == 0 for gap in gaps) and not any(b"\\" in gap for gap in (*gaps, frame.behind))
    return frame if is_sound else None

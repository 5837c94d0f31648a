"""Where certain bytes stand in a run of lines.

Each of these must cost little beside parsing the JSON: seldom bytes are searched for, which `bytes.find` does at the
speed of memory; to count frequent ones takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping


def line_ends(data: bytes) -> list[int]:
    """The places of all line ends."""
    places = []
    find = data.find
    place = find(b"\n")
    while place >= 0:
        places.append(place)
        place = find(b"\n", place + 1)
    return places


def count_delimiters(raw: bytes) -> int:
    """The number of quotation marks that begin or end a string, of valid JSON: those that no backslash escapes."""
    if b"\\\\" in raw:  # what escapes a backslash escapes no mark
        raw = raw.replace(b"\\\\", b"")
    return raw.count(b'"') - raw.count(b'\\"')


def find_beginnings(data: bytes, beginnings: Mapping[bytes, Collection[bytes]]) -> Iterator[int]:
    """Where one of `beginnings` stands: by their first byte, which is seldom, all that have it, three bytes each."""
    for first, all_of_it in beginnings.items():
        place = data.find(first)
        while place >= 0:
            if data[place : place + 3] in all_of_it:
                yield place
            place = data.find(first, place + 1)

"""Where certain bytes stand in a run of lines.

Each of these must cost little beside parsing the JSON: seldom bytes are searched for, which `bytes.find` does at the
speed of memory; frequent ones are counted with numpy, since `bytes.count` is ten times slower.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence

_LONG = 1 << 14  # bytes from which numpy is faster
_MANY = 1 << 25  # bytes to be counted before it is worth the tenth of a second that its import takes
_QUOTE, _BACKSLASH = b'"\\'
_counted = 0  # bytes so far, by this process


def line_ends(data: bytes) -> list[int]:
    """The places of all line ends."""
    places = []
    find = data.find
    place = find(b"\n")
    while place >= 0:
        places.append(place)
        place = find(b"\n", place + 1)
    return places


def are_objects_apart(data: bytes, ends: Sequence[int]) -> bool:
    """Whether every line begins with `{` and ends with `}`, and no space; `ends` are its line ends.

    Where that is so, and `data` is JSON, no record has a line end within: between `}` and `{` it would need a comma.
    """
    inner = ends[:-1] if ends and ends[-1] == len(data) - 1 else ends
    if data[:1] != b"{" or data.removesuffix(b"\n")[-1:] != b"}":
        return False
    return [data[at - 1 : at + 2] for at in inner] == [b"}\n{"] * len(inner)


def count_delimiters(data: bytes) -> int:
    """The number of quotation marks that begin or end a string, of valid JSON: those that no backslash escapes."""
    global _counted
    _counted += len(data)
    if len(data) < _LONG or _counted < _MANY:
        if b"\\\\" in data:  # what escapes a backslash escapes no mark
            data = data.replace(b"\\\\", b"")
        return data.count(b'"') - data.count(b'\\"')
    # No matrix is multiplied here, and threads for that would take a tenth of a processor to wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import numpy as np

    octets = np.frombuffer(data, np.uint8)
    is_quote, is_backslash = octets == _QUOTE, octets == _BACKSLASH
    is_escaped = is_backslash[:-1] & is_quote[1:]
    if (is_escaped[1:] & is_backslash[:-2]).any():
        return count_delimiters(data.replace(b"\\\\", b""))
    return int(np.count_nonzero(is_quote) - np.count_nonzero(is_escaped))


def find_beginnings(data: bytes, beginnings: Mapping[bytes, Collection[bytes]]) -> Iterator[int]:
    """Where one of `beginnings` stands: by their first byte, which is seldom, all that have it, three bytes each."""
    for first, all_of_it in beginnings.items():
        place = data.find(first)
        while place >= 0:
            if data[place : place + 3] in all_of_it:
                yield place
            place = data.find(first, place + 1)

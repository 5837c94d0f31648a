"""Columns of very many numbers, sorted and looked through some at a time: what is made of them lies on disk too.

Importing numpy takes a tenth of a second, so the functions do it, which are called where numbers are many.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kto_data.column import Column, room
from kto_data.digest import join_digests

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 16  # numbers that are looked at together, so that what is made of them stays small


def numbers_of(column: Any) -> NDArray[Any]:
    """The 64-bit numbers of an array, a memoryview or a column's view, without a copy."""
    import numpy as np

    return np.frombuffer(column, np.uint64) if len(column) else np.zeros(0, np.uint64)


def space(number: int, filled_with: int = 0) -> NDArray[Any]:
    """Room for so many 64-bit numbers, on disk where they are many."""
    numbers = numbers_of(room(8 * number))
    if filled_with:
        numbers.fill(filled_with)
    return numbers


def copy_of(values: NDArray[Any]) -> NDArray[Any]:
    """A copy, on disk where it is large."""
    copy = space(len(values))
    copy[:] = values
    return copy


def ascending(values: NDArray[Any]) -> NDArray[Any]:
    """The values in order, in a copy."""
    copy = copy_of(values)
    copy.sort()
    return copy


def ascending_where(values: NDArray[Any], labels: NDArray[Any], label: bool) -> NDArray[Any]:
    """The values of a label in order."""
    num_desirable = int(labels.sum())
    numbers = space(num_desirable if label else len(labels) - num_desirable)
    place = 0
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK][labels[start : start + _BLOCK] == label]
        numbers[place : place + len(block)] = block
        place += len(block)
    numbers.sort()
    return numbers


def joined(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """The numbers that two columns make together (`join_digests`)."""
    import numpy as np

    numbers = space(len(left))
    for start in range(0, len(numbers), _BLOCK):
        block = slice(start, start + _BLOCK)
        numbers[block] = join_digests(left[block].astype(np.uint64), right[block])
    return numbers


def blocks(column: array[int] | memoryview[int]) -> Iterator[array[int] | memoryview[int]]:
    """A column, some at a time."""
    for start in range(0, len(column), _BLOCK):
        yield column[start : start + _BLOCK]


def gathered(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Parts of a column one after another."""
    column = Column("Q")
    for part in parts:
        column.extend(part.tobytes())
    return numbers_of(column.view)


def runs(ordered: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The different ones of sorted values, and how often each occurs, some at a time."""
    import numpy as np

    last = -1  # where the run before ended
    for start in range(0, len(ordered), _BLOCK):
        block = ordered[start : start + _BLOCK + 1]  # with the one behind it, which tells whether its last run ends
        ends = start + np.flatnonzero(block[1:] != block[:-1])
        if start + _BLOCK >= len(ordered):
            ends = np.append(ends, len(ordered) - 1)
        if len(ends):
            yield ordered[ends], np.diff(ends, prepend=last)
            last = int(ends[-1])


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The different ones of the values in order."""
    return gathered(some for some, _ in runs(ascending(values)))


def most_frequent(values: NDArray[Any], counts: NDArray[Any], number: int) -> Iterator[tuple[int, int]]:
    """Values with their counts, among them the `number` most frequent ones; of equal counts the first ones."""
    import numpy as np

    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        top = np.argsort(-counts[block].astype(np.int64), kind="stable")[:number]
        yield from zip(values[block][top].tolist(), counts[block][top].tolist(), strict=True)


def those_among(ordered: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """The different ones of sorted values that are among `wanted`, which are sorted too."""
    return gathered(values[_places(values, wanted)[0]] for values, _ in runs(ordered))


def is_among(value: int, wanted: NDArray[Any]) -> bool:
    """Whether one number is among `wanted`, which are sorted."""
    import numpy as np

    place = int(np.searchsorted(wanted, np.uint64(value)))
    return place < len(wanted) and int(wanted[place]) == value


def rows_among(values: NDArray[Any], wanted: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The indices of the values that are among `wanted`, which are sorted, and the place of each there; some at a
    time."""
    import numpy as np

    for start in range(0, len(values), _BLOCK):
        is_among, places = _places(values[start : start + _BLOCK], wanted)
        yield (np.flatnonzero(is_among) + start).astype(np.uint64), places[is_among]


def _places(values: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Whether each value is among `wanted`, which are sorted, and where it is there."""
    import numpy as np

    if not len(wanted):
        return np.zeros(len(values), bool), np.zeros(len(values), np.int64)
    nearest = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    return wanted[nearest] == values, nearest

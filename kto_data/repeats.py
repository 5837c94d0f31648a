"""Equal numbers among many: which repeat, how often, and under which labels.

Few are counted in Python, which starts at once. Sets and dicts of a million numbers take 100 MB and more: many are
sorted with numpy, which takes 8 bytes each, on disk where they are very many, and what is kept is of those that repeat.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import compress
from typing import TYPE_CHECKING, Any

from kto_data.column import Column, room
from kto_data.digest import join_digests

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MANY = 200_000
"""Numbers from which numpy is worth the tenth of a second that its import takes."""

_BLOCK = 1 << 16  # numbers that are compared at a time, so that what is made of them stays small

_FLIPPED = bytes([1, 0]) + bytes(range(2, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A number that occurs more than once."""

    value: int
    count: int
    num_desirable: int  # of them
    first: int  # index of the first


class Keys:
    """A column of 64-bit numbers and the label of each (1 or 0). Neither may change: what was counted is kept."""

    def __init__(self, column: array[int] | memoryview[int], labels: bytes) -> None:
        self.column = column
        self.labels = labels

    def __len__(self) -> int:
        return len(self.column)

    @cached_property
    def num_distinct(self) -> int:
        """How many different numbers there are."""
        if self._is_large:
            _, counts = self._repeats
            return len(self) - int(counts.sum()) + len(counts)
        return len(self._counts)

    @cached_property
    def num_under_both(self) -> int:
        """How many different numbers occur under either label."""
        return len(self._under_both)

    @cached_property
    def num_entries_under_both(self) -> int:
        """How many entries have such a number."""
        if self._is_large:
            return sum(len(rows) for rows in _rows_among(self._values, self._under_both))
        return sum(self._counts[value] for value in self._under_both)

    @cached_property
    def num_repeated(self) -> int:
        """How many entries have a number that another one has too."""
        if self._is_large:
            return int(self._repeats[1].sum())
        return sum(count for count in self._counts.values() if count > 1)

    def most_common(self, number: int) -> list[Repeated]:
        """The `number` most frequent of the numbers that repeat: by count, then by number."""
        pairs: Iterable[tuple[int, int]]
        if self._is_large:
            import numpy as np

            values, counts = self._repeats
            # No more than these can be among them: sorted by count, with all that are as frequent as the last.
            least = np.partition(counts, -number)[-number] if len(counts) > number else 0
            pairs = zip(values[counts >= least].tolist(), counts[counts >= least].tolist(), strict=True)
        else:
            pairs = ((value, count) for value, count in self._counts.items() if count > 1)
        return [self._repeated(value, count) for value, count in nsmallest(number, pairs, key=lambda p: (-p[1], p[0]))]

    @property
    def commonest(self) -> list[int]:
        """How often the two most frequent numbers occur; one where all are equal."""
        counts = [entry.count for entry in self.most_common(2)]
        return counts + [1] * min(2 - len(counts), len(self) - sum(counts))  # those that do not repeat

    def repeated_rows(self) -> Sequence[int]:
        """The indices of the entries that have a number that another one has too."""
        if self._is_large:
            return _gathered(_rows_among(self._values, self._repeats[0]))
        counts = self._counts
        return [index for index, value in enumerate(self.column) if counts[value] > 1] if self.num_repeated else ()

    def rows_in(self, other: Keys) -> Sequence[int]:
        """The indices of the entries whose number `other` has too."""
        if self._is_large or other._is_large:
            return _gathered(_rows_among(self._values, _sorted(other._values)))
        return [index for index, value in enumerate(self.column) if value in other._counts]

    @cached_property
    def _under_both(self) -> Any:
        """The numbers that occur under either label: a set, or an array, ascending."""
        if not self._is_large:
            flipped = self.labels.translate(_FLIPPED)
            return set(compress(self.column, self.labels)).intersection(compress(self.column, flipped))
        import numpy as np

        labels = np.frombuffer(self.labels, bool)
        desirable, undesirable = (_sorted_where(self._values, labels, label) for label in (True, False))
        found = [values[_is_among(values, undesirable)] for values, _ in _runs(desirable)]
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    @property
    def _is_large(self) -> bool:
        return len(self.column) >= _MANY

    @cached_property
    def _counts(self) -> Counter[int]:
        return Counter(self.column)

    @property
    def _values(self) -> NDArray[Any]:
        import numpy as np

        return np.frombuffer(self.column, np.uint64) if len(self.column) else np.zeros(0, np.uint64)

    @cached_property
    def _repeats(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The numbers that occur more than once, ascending, and how often each does."""
        import numpy as np

        runs = [(values[counts > 1], counts[counts > 1]) for values, counts in _runs(_sorted(self._values))]
        if not runs:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        return np.concatenate([values for values, _ in runs]), np.concatenate([counts for _, counts in runs])

    def _repeated(self, value: int, count: int) -> Repeated:
        if self._is_large:
            import numpy as np

            labels, first, num_desirable = np.frombuffer(self.labels, bool), -1, 0
            for rows in _rows_among(self._values, np.array([value], np.uint64)):
                first = int(rows[0]) if first < 0 and len(rows) else first
                num_desirable += int(labels[rows].sum())
        else:
            entries = enumerate(zip(self.column, self.labels, strict=True))
            found = [(index, label) for index, (entry, label) in entries if entry == value]
            first, num_desirable = found[0][0], sum(label for _, label in found)
        return Repeated(value=value, count=count, num_desirable=num_desirable, first=first)


def groups_of_equal(left: Keys, right: Keys) -> list[list[int]]:
    """The indices of each group of two or more rows that are equal in both columns, in the order of their first."""
    groups: dict[tuple[int, int], list[int]] = {}
    rows = left.repeated_rows()
    if len(rows) >= _MANY:  # most of them are often equal in one column alone
        import numpy as np

        both = joined(left._values, right._values, np.asarray(rows).view(np.int64))
        rows = [rows[index] for index in Keys(both.data, bytes(len(rows))).repeated_rows()]
    for row in rows:
        groups.setdefault((left.column[row], right.column[row]), []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def joined(left: NDArray[Any], right: NDArray[Any], rows: NDArray[Any] | None = None) -> NDArray[Any]:
    """The numbers that two columns make together (`join_digests`), of all rows or of those, on disk where they are
    many."""
    import numpy as np

    numbers = _space(len(left) if rows is None else len(rows))
    for start in range(0, len(numbers), _BLOCK):
        block = slice(start, start + _BLOCK) if rows is None else rows[start : start + _BLOCK]
        numbers[start : start + _BLOCK] = join_digests(left[block].astype(np.uint64), right[block])
    return numbers


def copy_of(values: NDArray[Any]) -> NDArray[Any]:
    """A copy, on disk where it is large."""
    copy = _space(len(values))
    copy[:] = values
    return copy


def _space(number: int) -> NDArray[Any]:
    """Room for so many numbers, on disk where they are many."""
    import numpy as np

    return np.frombuffer(room(8 * number), np.uint64) if number else np.zeros(0, np.uint64)


def _sorted(values: NDArray[Any]) -> NDArray[Any]:
    copy = copy_of(values)
    copy.sort()
    return copy


def _sorted_where(values: NDArray[Any], labels: NDArray[Any], label: bool) -> NDArray[Any]:
    """The values of a label, ascending."""
    num_desirable = int(labels.sum())
    numbers = _space(num_desirable if label else len(labels) - num_desirable)
    place = 0
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK][labels[start : start + _BLOCK] == label]
        numbers[place : place + len(block)] = block
        place += len(block)
    numbers.sort()
    return numbers


def _runs(ordered: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
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


def _is_among(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """Whether each value is among `wanted`, which are sorted."""
    import numpy as np

    if not len(wanted):
        return np.zeros(len(values), bool)
    nearest = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    found: NDArray[Any] = wanted[nearest] == values
    return found


def _rows_among(values: NDArray[Any], wanted: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The indices of the values that are among `wanted`, which are sorted, some at a time."""
    import numpy as np

    for start in range(0, len(values), _BLOCK):
        yield np.flatnonzero(_is_among(values[start : start + _BLOCK], wanted)) + start


def _gathered(rows: Iterable[NDArray[Any]]) -> memoryview[int]:
    """The indices one after another, on disk where they are many."""
    column = Column("Q")
    for some in rows:
        column.extend(some.tobytes())
    return column.view

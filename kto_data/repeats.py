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

from kto_data.column import room
from kto_data.digest import MIX

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
            return sum(1 for _ in _rows_among(self._values, self._under_both))
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
            return array("Q", _rows_among(self._values, self._repeats[0]))
        counts = self._counts
        return [index for index, value in enumerate(self.column) if counts[value] > 1] if self.num_repeated else ()

    def rows_in(self, other: Keys) -> Sequence[int]:
        """The indices of the entries whose number `other` has too."""
        if self._is_large or other._is_large:
            return array("Q", _rows_among(self._values, _sorted(other._values)))
        return [index for index, value in enumerate(self.column) if value in other._counts]

    @cached_property
    def _under_both(self) -> Any:
        """The numbers that occur under either label: a set, or an array, ascending."""
        flipped = self.labels.translate(_FLIPPED)
        if not self._is_large:
            return set(compress(self.column, self.labels)).intersection(compress(self.column, flipped))
        import numpy as np

        left, right = (_distinct(self._values[_mask(labels)]) for labels in (self.labels, flipped))
        return left[np.fromiter(_rows_among(left, right), np.int64)]

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

        values = _sorted(self._values)
        is_as_before = values[1:] == values[:-1]
        # Of each run of equal numbers the second one is where "as before" begins.
        begins = np.flatnonzero(is_as_before & ~np.concatenate(([False], is_as_before[:-1])))
        ends = np.flatnonzero(is_as_before & ~np.concatenate((is_as_before[1:], [False])))
        return values[begins], ends - begins + 2

    def _repeated(self, value: int, count: int) -> Repeated:
        if self._is_large:
            import numpy as np

            (rows,) = (self._values == np.uint64(value)).nonzero()
            num_desirable, first = int(_mask(self.labels)[rows].sum()), int(rows[0])
        else:
            labels = [label for entry, label in zip(self.column, self.labels, strict=True) if entry == value]
            first = next(index for index, entry in enumerate(self.column) if entry == value)
            num_desirable = sum(labels)
        return Repeated(value=value, count=count, num_desirable=num_desirable, first=first)


def groups_of_equal(left: Keys, right: Keys) -> list[list[int]]:
    """The indices of each group of two or more rows that are equal in both columns, in the order of their first."""
    groups: dict[tuple[int, int], list[int]] = {}
    rows = left.repeated_rows()
    if len(rows) >= _MANY:  # most of them are often equal in one column alone
        import numpy as np

        places = np.asarray(rows).view(np.int64)
        mixed = left._values[places]
        mixed *= np.uint64(MIX)  # as `join_digests` does, where they lie
        mixed += right._values[places]
        rows = array("Q", (rows[index] for index in Keys(mixed.data, bytes(len(rows))).repeated_rows()))
    for row in rows:
        groups.setdefault((left.column[row], right.column[row]), []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The different ones of `values`, which are sorted where they lie, ascending."""
    import numpy as np

    values.sort()
    distinct: NDArray[Any] = values[np.concatenate((np.ones(min(1, len(values)), bool), values[1:] != values[:-1]))]
    return distinct


def copy_of(values: NDArray[Any]) -> NDArray[Any]:
    """A copy, on disk where it is large."""
    import numpy as np

    copy: NDArray[Any] = np.frombuffer(room(values.nbytes), values.dtype) if len(values) else values.copy()
    copy[:] = values
    return copy


def _sorted(values: NDArray[Any]) -> NDArray[Any]:
    copy = copy_of(values)
    copy.sort()
    return copy


def _mask(labels: bytes) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(labels, bool)


def _rows_among(values: NDArray[Any], wanted: NDArray[Any]) -> Iterator[int]:
    """The indices of the values that are among `wanted`, which are sorted."""
    import numpy as np

    if not len(wanted):
        return
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        nearest = np.minimum(np.searchsorted(wanted, block), len(wanted) - 1)
        yield from (np.flatnonzero(wanted[nearest] == block) + start).tolist()

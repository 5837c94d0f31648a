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
from typing import TYPE_CHECKING, Any, NamedTuple

from kto_data import blockwise
from kto_data.column import Column
from kto_data.digest import join_digests

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MANY = 200_000
"""Numbers from which numpy is worth the tenth of a second that its import takes."""

_NOWHERE = (1 << 64) - 1
_FLIPPED = bytes([1, 0]) + bytes(range(2, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A number that occurs more than once."""

    value: int
    count: int
    num_desirable: int  # of them
    first: int  # index of the first


class Opposed(NamedTuple):
    """A number that occurs under either label."""

    rarer: int  # index of the first under the label that fewer have; of a tie, under the one that came second
    other: int  # index of the first under the other label
    num_desirable: int
    num_undesirable: int


class Keys:
    """A column of 64-bit numbers and the label of each (1 or 0). Neither may change: what was counted is kept."""

    def __init__(self, column: array[int] | memoryview[int], labels: bytes) -> None:
        self.column = column
        self.labels = labels

    def __len__(self) -> int:
        return len(self.column)

    def joined_with(self, other: Keys) -> Keys:
        """The numbers that each entry and that of another column make together (`join_digests`)."""
        if self._is_large:
            return Keys(blockwise.joined(self._values, other._values).data, self.labels)
        return Keys(array("Q", map(join_digests, self.column, other.column)), self.labels)

    @cached_property
    def num_distinct(self) -> int:
        """How many different numbers there are."""
        if self._is_large:
            return len(self) - self.num_repeated + len(self._repeats[0])
        return len(self._counts)

    @cached_property
    def num_under_both(self) -> int:
        """How many different numbers occur under either label."""
        return len(self._under_both)

    def num_opposed_in(self, other: Keys) -> int:
        """How many entries have a number that occurs under either label in `other`: this column, or the whole of it."""
        if other._is_large:
            return sum(len(rows) for rows, _ in blockwise.rows_among(self._values, other._under_both))
        return sum(self._counts[value] for value in other._under_both)

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
            pairs = blockwise.most_frequent(*self._repeats, number)
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
            return blockwise.gathered(rows for rows, _ in blockwise.rows_among(self._values, self._repeats[0])).data
        counts = self._counts
        return [index for index, value in enumerate(self.column) if counts[value] > 1] if self.num_repeated else ()

    def rows_in(self, other: Keys) -> Sequence[int]:
        """The indices of the entries whose number `other` has too."""
        if self._is_large or other._is_large:
            wanted = blockwise.ascending(other._values)
            return blockwise.gathered(rows for rows, _ in blockwise.rows_among(self._values, wanted)).data
        return [index for index, value in enumerate(self.column) if value in other._counts]

    def seen_in(self, other: Keys) -> Iterator[tuple[int, int]]:
        """Of each entry whose number `other` has too its index, ascending, and that of the first such one there."""
        if self._is_large or other._is_large:
            common = blockwise.those_among(blockwise.ascending(self._values), blockwise.ascending(other._values))
            firsts = other._firsts(common)
            for rows, places in blockwise.rows_among(self._values, common):
                yield from zip(rows.tolist(), firsts[places].tolist(), strict=True)
            return
        first: dict[int, int] = {}
        for index, value in enumerate(other.column):
            if value in self._counts:
                first.setdefault(value, index)
        yield from ((index, first[value]) for index, value in enumerate(self.column) if value in first)

    def seen_before(self) -> Iterator[tuple[int, int]]:
        """Of each entry whose number and label an earlier one has its index, ascending, and that of the first such
        one."""
        if self._is_large:
            values, _ = self._repeats
            firsts, _ = self._sides(values)
            for rows, places in blockwise.rows_among(self._values, values):
                earlier = firsts[2 * places + self._label_of_each[rows]]
                is_again = earlier != rows
                yield from zip(rows[is_again].tolist(), earlier[is_again].tolist(), strict=True)
            return
        first: dict[tuple[int, int], int] = {}
        for index in self.repeated_rows():
            original = first.setdefault((self.column[index], self.labels[index]), index)
            if original != index:
                yield index, original

    def opposed(self) -> Iterator[Opposed]:
        """The numbers that occur under either label, in the order of their `rarer`."""
        if self._is_large:
            yield from self._opposed_of_many()
            return
        sides: dict[int, tuple[list[int], list[int]]] = {}
        for index, value in enumerate(self.column):
            if value in self._under_both:
                sides.setdefault(value, ([], []))[self.labels[index]].append(index)
        found = []
        for undesirable, desirable in sides.values():
            rarer, other = sorted((undesirable, desirable), key=lambda side: (len(side), -side[0]))
            found.append(Opposed(rarer[0], other[0], len(desirable), len(undesirable)))
        yield from sorted(found)

    def _opposed_of_many(self) -> Iterator[Opposed]:
        import numpy as np

        firsts, counts = (column.reshape(-1, 2) for column in self._sides(self._under_both))
        for rows, places in blockwise.rows_among(self._values, self._under_both):
            (first_undesirable, first_desirable), (num_undesirable, num_desirable) = firsts[places].T, counts[places].T
            is_rarer = np.where(
                num_desirable == num_undesirable, first_desirable > first_undesirable, num_desirable < num_undesirable
            )  # the desirable side
            rarer = np.where(is_rarer, first_desirable, first_undesirable)
            other = np.where(is_rarer, first_undesirable, first_desirable)
            columns = (column[rarer == rows].tolist() for column in (rarer, other, num_desirable, num_undesirable))
            yield from map(Opposed, *columns)

    @cached_property
    def _under_both(self) -> Any:
        """The numbers that occur under either label: a set, or an array, ascending."""
        if not self._is_large:
            flipped = self.labels.translate(_FLIPPED)
            return set(compress(self.column, self.labels)).intersection(compress(self.column, flipped))
        labels = self._label_of_each
        return blockwise.those_among(*(blockwise.ascending_where(self._values, labels, side) for side in (True, False)))

    @property
    def _is_large(self) -> bool:
        return len(self.column) >= _MANY

    @cached_property
    def _counts(self) -> Counter[int]:
        return Counter(self.column)

    @property
    def _values(self) -> NDArray[Any]:
        return blockwise.numbers_of(self.column)

    @property
    def _label_of_each(self) -> NDArray[Any]:
        import numpy as np

        return np.frombuffer(self.labels, bool)

    @cached_property
    def _repeats(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The numbers that occur more than once, ascending, and how often each does."""
        values, counts = Column("Q"), Column("Q")
        for some, how_often in blockwise.runs(blockwise.ascending(self._values)):
            values.extend(some[how_often > 1].tobytes())
            counts.extend(how_often[how_often > 1].tobytes())
        return blockwise.numbers_of(values.view), blockwise.numbers_of(counts.view)

    def _firsts(self, wanted: NDArray[Any]) -> NDArray[Any]:
        """The index of the first entry with each of these numbers, which are sorted."""
        import numpy as np

        firsts = blockwise.space(len(wanted), filled_with=_NOWHERE)
        for rows, places in blockwise.rows_among(self._values, wanted):
            np.minimum.at(firsts, places, rows)
        return firsts

    def _sides(self, wanted: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The index of the first entry with each of these numbers, which are sorted, and how many have it: each in two
        entries, of label 0 and of label 1."""
        import numpy as np

        firsts, counts = blockwise.space(2 * len(wanted), filled_with=_NOWHERE), blockwise.space(2 * len(wanted))
        for rows, places in blockwise.rows_among(self._values, wanted):
            sides = 2 * places + self._label_of_each[rows]
            np.minimum.at(firsts, sides, rows)
            np.add.at(counts, sides, np.uint64(1))
        return firsts, counts

    def _repeated(self, value: int, count: int) -> Repeated:
        if self._is_large:
            import numpy as np

            wanted = np.array([value], np.uint64)
            firsts, counts = self._sides(wanted)
            return Repeated(value=value, count=count, num_desirable=int(counts[1]), first=int(firsts.min()))
        entries = enumerate(zip(self.column, self.labels, strict=True))
        found = [(index, label) for index, (entry, label) in entries if entry == value]
        return Repeated(value=value, count=count, num_desirable=sum(label for _, label in found), first=found[0][0])


def chained(parts: Sequence[Keys]) -> Keys:
    """The entries of several columns, one after another."""
    if len(parts) == 1:
        return parts[0]
    column = Column("Q")
    for part in parts:
        for block in blockwise.blocks(part.column):
            column.extend(block)
    return Keys(column.view, b"".join(part.labels for part in parts))

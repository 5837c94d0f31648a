"""Equal numbers among many: which repeat, how often, and under which labels.

Small columns are counted in Python, which starts at once. Sets and dicts of a million numbers take 100 MB and more:
large ones go to polars.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import compress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars

_MANY = 200_000
"""Numbers from which polars is worth its third of a second to load."""

_MARK = 0x5851_F42D_4C95_7F2D
"""Turns a number into another one where its sample is desirable; two numbers that differ by it are as good as none."""

_MOST = 100
"""The number of values that can be asked for by how often they occur."""

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

    def __init__(self, column: array[int], labels: bytes) -> None:
        self.column = column
        self.labels = labels

    def __len__(self) -> int:
        return len(self.column)

    @cached_property
    def num_distinct(self) -> int:
        """How many different numbers there are."""
        return int(self._series.n_unique()) if self._is_large else len(self._counts)

    @cached_property
    def num_under_both(self) -> int:
        """How many different numbers occur under either label."""
        if self._is_large:
            import polars as pl

            # Each number that has both labels is two of the marked ones.
            marked = pl.select(pl.when(self._label_series).then(self._series ^ _MARK).otherwise(self._series))
            return int(marked.to_series().n_unique()) - self.num_distinct
        under_false = compress(self.column, self.labels.translate(_FLIPPED))
        return len(set(compress(self.column, self.labels)).intersection(under_false))

    @cached_property
    def num_repeated(self) -> int:
        """How many entries have a number that another one has too."""
        if self._is_large:
            return int(self._repeated_mask.sum())
        return sum(count for count in self._counts.values() if count > 1)

    def most_common(self, number: int) -> list[Repeated]:
        """The `number` most frequent of the numbers that repeat: by count, then by number."""
        assert number <= _MOST
        top = nsmallest(number, self._repeated_counts, key=lambda pair: (-pair[1], pair[0]))
        return [self._repeated(value, count) for value, count in top]

    def repeated_rows(self) -> Sequence[int]:
        """The indices of the entries that have a number that another one has too."""
        if self._is_large:
            return list(self._repeated_mask.arg_true())
        counts = self._counts
        return [index for index, value in enumerate(self.column) if counts[value] > 1] if self.num_repeated else ()

    def rows_in(self, other: Keys) -> Sequence[int]:
        """The indices of the entries whose number `other` has too."""
        if self._is_large or other._is_large:
            return list(self._series.is_in(other._series.implode()).arg_true())
        return [index for index, value in enumerate(self.column) if value in other._counts]

    @property
    def _is_large(self) -> bool:
        return len(self.column) >= _MANY

    @cached_property
    def _counts(self) -> Counter[int]:
        return Counter(self.column)

    @cached_property
    def _repeated_counts(self) -> list[tuple[int, int]]:
        pairs: Iterable[tuple[int, int]] = self._counts.items() if not self._is_large else ()
        if self._is_large:
            counts = self._series.filter(self._repeated_mask).value_counts(name="count")
            pairs = counts.top_k(_MOST, by=["count", "value"], reverse=[False, True]).iter_rows()
        return [(value, count) for value, count in pairs if count > 1]

    def _repeated(self, value: int, count: int) -> Repeated:
        if self._is_large:
            mask = self._series == value
            num_desirable, first = int((mask & self._label_series).sum()), int(mask.arg_max() or 0)
        else:
            labels = [label for entry, label in zip(self.column, self.labels, strict=True) if entry == value]
            num_desirable, first = sum(labels), self.column.index(value)
        return Repeated(value=value, count=count, num_desirable=num_desirable, first=first)

    @cached_property
    def _series(self) -> polars.Series:
        import polars as pl

        return pl.Series("value", self.column, dtype=pl.UInt64)

    @cached_property
    def _label_series(self) -> polars.Series:
        import polars as pl

        return pl.Series("label", array("B", self.labels), dtype=pl.UInt8).cast(pl.Boolean)

    @cached_property
    def _repeated_mask(self) -> polars.Series:
        return self._series.is_duplicated()


def groups_of_equal(left: Keys, right: Keys) -> list[list[int]]:
    """The indices of each group of two or more rows that are equal in both columns, in the order of their first."""
    rows = left.repeated_rows()
    if len(rows) < _MANY:
        groups: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            groups.setdefault((left.column[row], right.column[row]), []).append(row)
        return [group for group in groups.values() if len(group) > 1]
    import polars as pl

    frame = pl.DataFrame({"left": left._series, "right": right._series}).with_row_index("row")[rows]
    frame = frame.filter(frame.select("left", "right").is_duplicated())
    found = frame.group_by("left", "right", maintain_order=True).agg("row").get_column("row")
    return [group.to_list() for group in found]

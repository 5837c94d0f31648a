"""Equal numbers among many: which repeat, how often, and under which labels.

Small columns are counted in Python, which starts at once. Sets and dicts of a million numbers take 100 MB and more:
large ones go to polars.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import compress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars

_MANY = 200_000
"""Numbers from which polars is worth its third of a second to load."""


def groups_of_equal(*columns: array[int]) -> Iterator[list[int]]:
    """The indices of each group of two or more rows that are equal in all `columns`, in the order of their first."""
    if len(columns[0]) < _MANY:
        return _small_groups(columns)
    import polars as pl

    frame = pl.DataFrame({str(index): _series(column) for index, column in enumerate(columns)})
    repeated = frame.is_duplicated()
    if not repeated.any():
        return iter(())
    frame = frame.with_row_index("row").filter(repeated)
    keys = [str(index) for index in range(len(columns))]
    groups = frame.group_by(keys, maintain_order=True).agg("row").get_column("row")
    return (group.to_list() for group in groups)


def most_common(column: array[int], number: int) -> list[tuple[int, int]]:
    """The `number` most frequent of the values that repeat, with their counts: by count, then by value."""
    if len(column) < _MANY:
        counts: Iterable[tuple[int, int]] = Counter(column).items()
    else:
        import polars as pl

        counts = _series(column).value_counts(name="count").filter(pl.col("count") > 1).iter_rows()
    repeated = ((value, count) for value, count in counts if count > 1)
    return nsmallest(number, repeated, key=lambda pair: (-pair[1], pair[0]))


def num_repeated(column: array[int]) -> int:
    """How many entries occur more than once."""
    if len(column) < _MANY:
        return sum(count for count in Counter(column).values() if count > 1)
    return int(_series(column).is_duplicated().sum())


def num_distinct(column: array[int]) -> int:
    """How many different values occur."""
    return len(set(column)) if len(column) < _MANY else int(_series(column).n_unique())


def num_under_both(column: array[int], labels: bytes) -> int:
    """How many different values occur under either label; `labels` has a 1 or a 0 for each entry."""
    if len(column) < _MANY:
        others = labels.translate(_FLIPPED)
        return len(set(compress(column, labels)).intersection(compress(column, others)))
    import polars as pl

    frame = pl.DataFrame({"value": _series(column), "label": _series(array("B", labels))})
    both = frame.group_by("value").agg(pl.col("label").n_unique().alias("labels")).get_column("labels")
    return int((both == 2).sum())


def indices_in(column: array[int], others: array[int]) -> Sequence[int]:
    """The indices of the entries that occur in `others`."""
    if len(column) + len(others) < _MANY:
        known = set(others)
        return [index for index, value in enumerate(column) if value in known]
    return list(_series(column).is_in(_series(others).implode()).arg_true())


def _small_groups(columns: tuple[array[int], ...]) -> Iterator[list[int]]:
    keys: Any = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    again = {key for key, count in Counter(keys).items() if count > 1}
    groups: dict[Any, list[int]] = {}
    if again:
        for index, key in enumerate(keys):
            if key in again:
                groups.setdefault(key, []).append(index)
    return iter(groups.values())


def _series(column: array[int]) -> polars.Series:
    import polars as pl

    return pl.Series(column, dtype={"Q": pl.UInt64, "I": pl.UInt32, "B": pl.UInt8}[column.typecode])


_FLIPPED = bytes([1, 0]) + bytes(range(2, 256))

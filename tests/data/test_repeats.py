from __future__ import annotations

from array import array
from collections import Counter

import pytest

from kto_data import column, repeats
from kto_data.repeats import Keys, Repeated, groups_of_equal

ALWAYS, NEVER = 0, 10**9


@pytest.fixture(
    params=[(ALWAYS, ALWAYS, 3), (ALWAYS, ALWAYS, 4), (ALWAYS, NEVER, 100), (NEVER, NEVER, 100)],
    ids=["on disk, by threes", "on disk, by fours", "numpy", "python"],
)
def _many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From how many numbers on numpy is used, from how many bytes on they are sorted on disk, and how many are looked
    at together."""
    for (module, name), value in zip(
        ((repeats, "_MANY"), (column, "MOST_BYTES"), (repeats, "_BLOCK")), request.param, strict=True
    ):
        monkeypatch.setattr(module, name, value)


def keys(rows: list[int]) -> Keys:
    return Keys(array("Q", rows), bytes(index % 2 for index in range(len(rows))))


pytestmark = pytest.mark.usefixtures("_many")
TABLE = [
    [],
    [7],
    [7, 7],
    [1, 2, 1, 3, 2, 1, 2**64 - 1],
    [2**63, 0, 2**63, 0],
    [4, 4, 5, 6, 4, 5, 4],
    [i * i % 17 for i in range(60)],
]


@pytest.mark.parametrize("rows", TABLE)
def test_groups_are_those_of_equal_rows_in_the_order_of_their_first(rows: list[int]) -> None:
    groups = [[i for i, value in enumerate(rows) if value == key] for key in dict.fromkeys(rows)]
    expected = [group for group in groups if len(group) > 1]
    assert groups_of_equal(keys(rows), keys([5] * len(rows))) == expected
    assert groups_of_equal(keys([5] * len(rows)), keys(rows)) == expected
    assert groups_of_equal(keys(rows), keys(rows)) == expected
    assert groups_of_equal(keys(rows), keys(list(range(len(rows))))) == []


@pytest.mark.parametrize("rows", TABLE)
def test_counts_are_exact(rows: list[int]) -> None:
    found, counts = keys(rows), Counter(rows)
    repeated = sorted(((v, c) for v, c in counts.items() if c > 1), key=lambda pair: (-pair[1], pair[0]))
    assert found.most_common(2) == [
        Repeated(
            value=value,
            count=count,
            num_desirable=sum(index % 2 for index, other in enumerate(rows) if other == value),
            first=rows.index(value),
        )
        for value, count in repeated[:2]
    ]
    assert found.num_repeated == sum(count for _, count in repeated)
    assert list(found.repeated_rows()) == [index for index, value in enumerate(rows) if counts[value] > 1]
    assert found.num_distinct == len(counts)
    under_both = set(rows[::2]) & set(rows[1::2])
    assert found.num_under_both == len(under_both)
    assert found.num_entries_under_both == sum(value in under_both for value in rows)
    assert found.commonest == [count for _, count in counts.most_common(2)]


@pytest.mark.parametrize("rows", TABLE)
def test_rows_in_another_column_are_found(rows: list[int]) -> None:
    others = [1, 7, 2**63]
    assert list(keys(rows).rows_in(keys(others))) == [index for index, value in enumerate(rows) if value in others]

from __future__ import annotations

from array import array
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_data import repeats

NUMBERS = st.lists(st.sampled_from([0, 1, 5, 2**64 - 1, 2**63]), max_size=20)
ALWAYS, NEVER = 0, 10**9


@pytest.fixture(params=[ALWAYS, NEVER], ids=["polars", "python"])
def _many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MANY", request.param)


def columns(rows: list[int]) -> array[int]:
    return array("Q", rows)


pytestmark = pytest.mark.usefixtures("_many")
TABLE = [[], [7], [7, 7], [1, 2, 1, 3, 2, 1, 2**64 - 1], [2**63, 0, 2**63, 0]]


@pytest.mark.parametrize("rows", TABLE)
def test_groups_are_those_of_equal_rows_in_the_order_of_their_first(rows: list[int]) -> None:
    groups = [[i for i, value in enumerate(rows) if value == key] for key in dict.fromkeys(rows)]
    expected = [group for group in groups if len(group) > 1]
    assert list(repeats.groups_of_equal(columns(rows))) == expected
    assert list(repeats.groups_of_equal(columns(rows), columns(rows))) == expected
    assert list(repeats.groups_of_equal(columns(rows), columns(list(range(len(rows)))))) == []


@pytest.mark.parametrize("rows", TABLE)
def test_counts_are_exact(rows: list[int]) -> None:
    counts = Counter(rows)
    repeated = sorted(((v, c) for v, c in counts.items() if c > 1), key=lambda pair: (-pair[1], pair[0]))
    assert repeats.most_common(columns(rows), 2) == repeated[:2]
    assert repeats.num_repeated(columns(rows)) == sum(count for _, count in repeated)
    assert repeats.num_distinct(columns(rows)) == len(counts)
    labels = bytes(index % 2 for index in range(len(rows)))
    both = {value for value, label in zip(rows, labels, strict=True) if label}
    both &= {value for value, label in zip(rows, labels, strict=True) if not label}
    assert repeats.num_under_both(columns(rows), labels) == len(both)
    others = [1, 7, 2**63]
    assert list(repeats.indices_in(columns(rows), columns(others))) == [
        index for index, value in enumerate(rows) if value in others
    ]


@given(NUMBERS)
def test_any_numbers_group_alike(rows: list[int]) -> None:
    found = list(repeats.groups_of_equal(columns(rows)))
    assert sorted(chain.from_iterable(found)) == [index for index, value in enumerate(rows) if rows.count(value) > 1]

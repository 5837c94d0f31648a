from __future__ import annotations

from array import array
from collections import Counter

import pytest

from kto_data import blockwise, column, repeats
from kto_data.repeats import Keys, Opposed, Repeated, chained

ALWAYS, NEVER = 0, 10**9


@pytest.fixture(
    params=[(ALWAYS, ALWAYS, 3), (ALWAYS, ALWAYS, 4), (ALWAYS, NEVER, 100), (NEVER, NEVER, 100)],
    ids=["on disk, by threes", "on disk, by fours", "numpy", "python"],
)
def _many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From how many numbers on numpy is used, from how many bytes on they are sorted on disk, and how many are looked
    at together."""
    for (module, name), value in zip(
        ((repeats, "_MANY"), (column, "MOST_BYTES"), (blockwise, "_BLOCK")), request.param, strict=True
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
def test_an_entry_was_seen_before_where_number_and_label_were(rows: list[int]) -> None:
    entries = [(value, index % 2) for index, value in enumerate(rows)]
    expected = [(i, entries.index(entry)) for i, entry in enumerate(entries) if entry in entries[:i]]
    assert list(keys(rows).seen_before()) == expected


@pytest.mark.parametrize("rows", TABLE)
def test_under_both_labels_the_first_of_the_rarer_one_is_named_or_on_a_tie_the_later(rows: list[int]) -> None:
    expected = []
    for value in dict.fromkeys(rows):
        undesirable, desirable = ([i for i, v in enumerate(rows) if v == value and i % 2 == label] for label in (0, 1))
        if undesirable and desirable:
            by_number = sorted((undesirable, desirable), key=len)
            by_place = sorted((undesirable, desirable), reverse=True)
            rarer, other = by_place if len(undesirable) == len(desirable) else by_number
            expected.append(Opposed(rarer[0], other[0], len(desirable), len(undesirable)))
    assert list(keys(rows).opposed()) == sorted(expected)


@pytest.mark.parametrize("rows", TABLE)
def test_columns_are_joined_entry_by_entry_and_chained_one_after_the_other(rows: list[int]) -> None:
    column = keys(rows)
    assert list(column.joined_with(keys([5] * len(rows))).seen_before()) == list(column.seen_before())
    assert list(column.joined_with(keys(list(range(len(rows))))).seen_before()) == []
    whole = chained([column, keys([9, 7]), column])
    assert list(whole.column) == [*rows, 9, 7, *rows]
    assert whole.labels == column.labels + bytes([0, 1]) + column.labels


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
    assert found.num_opposed_in(found) == sum(value in under_both for value in rows)
    assert keys([7, 1, 8]).num_opposed_in(found) == sum(value in under_both for value in (7, 1, 8))
    assert found.commonest == [count for _, count in counts.most_common(2)]


@pytest.mark.parametrize("rows", TABLE)
def test_rows_in_another_column_are_found(rows: list[int]) -> None:
    others = [1, 7, 2**63, 7]
    expected = [index for index, value in enumerate(rows) if value in others]
    assert list(keys(rows).rows_in(keys(others))) == expected
    assert list(keys(rows).seen_in(keys(others))) == [(index, others.index(rows[index])) for index in expected]

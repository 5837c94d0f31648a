"""Partners: exchanges of rows within and between KL groups, so that fewer rows meet a completion equal to their own.

Each row's partner is the row before it in its group, cyclically. Where the two completions are equal, the KL term is
the row's own reward.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from kto_data.pairing import fewest_self_pairs

_SEARCH_WINDOW = 512
"""How many groups to either side are asked for a row to exchange."""
_TAKERS_TRIED = 32
"""How many groups to either side are asked, of those known to be able to take a row."""


def min_self_pairs(keys: Sequence[int], sizes: Sequence[int]) -> int:
    """The fewest self-pairs that groups of these sizes can have with these completions."""
    return fewest_self_pairs([count for _, count in Counter(keys).most_common(2)], len(keys), sizes)


def arrange(group: list[int], keys: Sequence[int]) -> list[int]:
    """`group` in an order with the fewest equal neighbours on the cycle.

    The commonest completion goes to every other place, then the next one, and so on; the odd places come last.
    """
    own = [keys[row] for row in group]
    counts = Counter(own)
    if len(counts) == len(group):
        return group
    ranked = sorted(range(len(group)), key=lambda i: (-counts[own[i]], own[i]))
    places = [*range(0, len(group), 2), *range(1, len(group), 2)]
    arranged = [0] * len(group)
    for place, i in zip(places, ranked, strict=True):
        arranged[place] = group[i]
    return arranged


def spread_equal_completions(groups: list[list[int]], keys: Sequence[int], labels: Sequence[bool]) -> None:
    """Exchange rows between groups, near ones first, until none holds more of one completion than it can keep apart."""
    occurrences = Counter(keys)
    if len(occurrences) == len(keys):
        return
    exchange = _Exchange(groups, keys, labels)
    least = min_self_pairs(keys, [len(group) for group in groups])
    for same_label in (True, False):
        before = exchange.cost + 1
        while least < exchange.cost < before:
            before = exchange.cost
            for g in range(len(groups)):
                while exchange.cost_of(g) and exchange.improve(g, same_label):
                    pass
    if exchange.cost > least and len(groups) <= _SEARCH_WINDOW:
        dealt = _dealt(groups, keys, occurrences)
        if _Exchange(dealt, keys, labels).cost < exchange.cost:
            groups[:] = dealt


class _Exchange:
    """Exchanges of one row for one row between two groups, each lowering the cost: self-pairs in the best orders."""

    def __init__(self, groups: list[list[int]], keys: Sequence[int], labels: Sequence[bool]) -> None:
        self.groups = groups
        self.key = keys
        self.label = labels
        self.counts = [Counter(self.key[row] for row in group) for group in groups]
        self.cost = sum(self.cost_of(g) for g in range(len(groups)))
        occurrences = Counter(self.key)
        # Of a completion that is everywhere, few groups can take one more: those are kept in a list. Of any other,
        # nearly every group can.
        self.takers = {
            kind: [g for g in range(len(groups)) if self._can_take(g, kind)]
            for kind, count in occurrences.items()
            if count > len(groups) / 4
        }

    def cost_of(self, g: int) -> int:
        """Self-pairs that the best order of group g has."""
        return max(0, 2 * max(self.counts[g].values()) - len(self.groups[g]))

    def improve(self, g: int, same_label: bool) -> bool:
        """Exchange a row of g's commonest completion with a near group; False where that lowers no cost."""
        common = self.counts[g].most_common(1)[0][0]
        own = [i for i, row in enumerate(self.groups[g]) if self.key[row] == common]
        return any(self._exchange_with(g, own, h, same_label) for h in self._near(g, common) if h != g)

    def _can_take(self, g: int, kind: int) -> bool:
        return self.counts[g][kind] < (len(self.groups[g]) + 1) // 2

    def _near(self, g: int, kind: int) -> Iterator[int]:
        """Groups that might take one more of this completion, the nearest first."""
        if kind not in self.takers:
            yield from outwards(g, len(self.groups), _SEARCH_WINDOW)
            return
        takers = self.takers[kind]
        middle = bisect_left(takers, g)
        for i in [middle, *outwards(middle, len(takers), _TAKERS_TRIED)]:
            if i < len(takers):
                yield takers[i]

    def _exchange_with(self, g: int, own: list[int], h: int, same_label: bool) -> bool:
        before = self.cost
        tried: set[tuple[int, bool]] = set()
        for i in own:
            mine = self.groups[g][i]
            for j, other in enumerate(self.groups[h]):
                kind = (self.key[other], self.label[mine] == self.label[other])
                if kind[0] == self.key[mine] or kind in tried or (same_label and not kind[1]):
                    continue
                tried.add(kind)
                self._swap(g, i, h, j)
                if self.cost < before:
                    self._note_takers(g, h, (self.key[mine], self.key[other]))
                    return True
                self._swap(g, i, h, j)
        return False

    def _swap(self, g: int, i: int, h: int, j: int) -> None:
        mine, other = self.groups[g][i], self.groups[h][j]
        self.cost -= self.cost_of(g) + self.cost_of(h)
        self.groups[g][i], self.groups[h][j] = other, mine
        _move(self.counts[g], self.key[mine], self.key[other])
        _move(self.counts[h], self.key[other], self.key[mine])
        self.cost += self.cost_of(g) + self.cost_of(h)

    def _note_takers(self, g: int, h: int, kinds: tuple[int, int]) -> None:
        for kind in kinds:
            takers = self.takers.get(kind)
            if takers is None:
                continue
            for group in (g, h):
                place = bisect_left(takers, group)
                listed = place < len(takers) and takers[place] == group
                if listed and not self._can_take(group, kind):
                    del takers[place]
                elif not listed and self._can_take(group, kind):
                    takers.insert(place, group)


def outwards(middle: int, length: int, most: int) -> Iterator[int]:
    """Indices below `length` around `middle`, itself left out, at most `most` to either side."""
    for distance in range(1, min(most, length) + 1):
        for index in (middle - distance, middle + distance):
            if 0 <= index < length:
                yield index


def _move(counts: Counter[int], out: int, into: int) -> None:
    counts[out] -= 1
    if not counts[out]:
        del counts[out]
    counts[into] += 1


def _dealt(groups: list[list[int]], key: Sequence[int], occurrences: Counter[int]) -> list[list[int]]:
    """All rows dealt anew, the commonest completion first, each to the group with most room for one more of its kind.

    The last resort of small data full of equal answers: lengths and labels are let go to keep equal answers apart.
    """
    sizes = [len(group) for group in groups]
    dealt: list[list[int]] = [[] for _ in sizes]
    counts: list[Counter[int]] = [Counter() for _ in sizes]
    for row in sorted(range(len(key)), key=lambda row: (-occurrences[key[row]], key[row], row)):
        kind = key[row]
        open_groups = (g for g in range(len(sizes)) if len(dealt[g]) < sizes[g])
        g = max(open_groups, key=lambda g: _room(sizes[g], counts[g][kind], len(dealt[g])))
        dealt[g].append(row)
        counts[g][kind] += 1
    return dealt


def _room(size: int, of_kind: int, taken: int) -> tuple[bool, int, int]:
    return (size // 2 > of_kind, size - 2 * of_kind, size - taken)

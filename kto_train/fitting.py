"""Partners whose completion fits behind the prompt: groups put in another order, and rows exchanged between them.

A KL sequence is a prompt with the completion of the row before it. Where that is longer than the cache's `max_length`,
the completion loses its tail: less bad than meeting a completion equal to one's own, which no exchange here brings
about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, islice, permutations

from kto_train.partners import outwards

_FIT_WINDOW = 16
"""How many groups to either side are asked for a row under which a KL sequence fits."""
_FEW_ROWS, _FEW_GROUPS, _FEWEST_GROUPS = 4, 32, 8
"""Up to this many rows, every order of a group is tried; of so few groups, any two near ones are also dealt anew,
and of the fewest any three."""
_MOST_PAIRS = 20_000
"""How many pairs of groups are tried for an exchange: in data that is cut everywhere, no search would end."""


class Fitter:
    """Brings prompt + partner's completion within bounds by reordering groups and exchanging rows with near ones.

    `room` is how many tokens a completion may have behind each prompt, `length` how many each completion has.
    """

    def __init__(
        self,
        groups: list[list[int]],
        keys: Sequence[int],
        labels: Sequence[bool],
        *,
        room: Sequence[int],
        length: Sequence[int],
    ) -> None:
        self.groups = groups
        self.key = keys
        self.label = labels
        self.room = room
        self.length = length

    def fit(self) -> None:
        """Lower the number of cut KL sequences, never raising the number of self-pairs."""
        for g in range(len(self.groups)):
            if self.cost(self.groups[g])[1]:
                self.groups[g] = self.reorder(self.groups[g])
        pairs = islice(self._near_pairs(), _MOST_PAIRS)
        for g, h, same_label in pairs:
            while self.cost(self.groups[g])[1] and self._exchange(g, h, same_label):
                pass
        if len(self.groups) <= _FEW_GROUPS:
            for g, h, _ in self._near_pairs():
                if len(self.groups[g]) + len(self.groups[h]) <= 2 * _FEW_ROWS:
                    self._deal_anew(g, h)
        if len(self.groups) <= _FEWEST_GROUPS:  # what no exchange between two of them mends, one among three may
            for three in combinations(range(len(self.groups)), 3):
                if sum(len(self.groups[g]) for g in three) <= 2 * _FEW_ROWS:
                    self._deal_three_anew(*three)

    def _near_pairs(self) -> Iterator[tuple[int, int, bool]]:
        """(group with a cut, near group, whether labels must stay as they are), as long as there are cuts."""
        for same_label in (True, False):
            for g in range(len(self.groups)):
                for h in outwards(g, len(self.groups), _FIT_WINDOW):
                    if not self.cost(self.groups[g])[1]:
                        break
                    yield g, h, same_label

    def cost(self, group: list[int]) -> tuple[int, int]:
        """(self-pairs, cut KL sequences) of a group in this order."""
        self_pairs = cuts = 0
        for place, row in enumerate(group):
            partner = group[place - 1]
            self_pairs += self.key[row] == self.key[partner]
            cuts += self.length[partner] > self.room[row]
        return self_pairs, cuts

    def reorder(self, group: list[int]) -> list[int]:
        """The best order; of a large group, the best one that exchanging two places at a time leads to."""
        if len(group) <= _FEW_ROWS:
            return min(([group[0], *rest] for rest in permutations(group[1:])), key=self.cost)
        best, best_cost = group, self.cost(group)
        improved = True
        while improved and best_cost[1]:
            improved = False
            for i in range(len(group)):
                for j in range(i + 1, len(group)):
                    candidate = best.copy()
                    candidate[i], candidate[j] = candidate[j], candidate[i]
                    cost = self.cost(candidate)
                    if cost < best_cost:
                        best, best_cost, improved = candidate, cost, True
        return best

    def _exchange(self, g: int, h: int, same_label: bool) -> bool:
        mine, other = self.groups[g], self.groups[h]
        before = _plus(self.cost(mine), self.cost(other))
        for i, row in enumerate(mine):
            for j, candidate in enumerate(other):
                if same_label and self.label[row] != self.label[candidate]:
                    continue
                new_mine = self.reorder([*mine[:i], candidate, *mine[i + 1 :]])
                new_other = self.reorder([*other[:j], row, *other[j + 1 :]])
                after = _plus(self.cost(new_mine), self.cost(new_other))
                if after[0] <= before[0] and after[1] < before[1]:
                    self.groups[g], self.groups[h] = new_mine, new_other
                    return True
        return False

    def _deal_anew(self, g: int, h: int) -> None:
        """The rows of both groups dealt in every way."""
        rows = [*self.groups[g], *self.groups[h]]
        best = _plus(self.cost(self.groups[g]), self.cost(self.groups[h]))
        for mine in combinations(rows, len(self.groups[g])):
            groups = self.reorder(list(mine)), self.reorder([row for row in rows if row not in mine])
            cost = _plus(*map(self.cost, groups))
            if cost < best:
                best = cost
                self.groups[g], self.groups[h] = groups

    def _deal_three_anew(self, g: int, h: int, k: int) -> None:
        """The rows of three groups dealt in every way, for as long as there are cuts."""
        best = self._cost_of(g, h, k)
        rows = [*self.groups[g], *self.groups[h], *self.groups[k]]
        for mine in combinations(rows, len(self.groups[g])):
            if not best[1]:
                return
            before = self.groups[g], self.groups[h], self.groups[k]
            rest = [row for row in rows if row not in mine]
            self.groups[g] = self.reorder(list(mine))
            self.groups[h], self.groups[k] = rest[: len(before[1])], rest[len(before[1]) :]
            self._deal_anew(h, k)
            cost = self._cost_of(g, h, k)
            if cost < best:
                best = cost
            else:
                self.groups[g], self.groups[h], self.groups[k] = before

    def _cost_of(self, *groups: int) -> tuple[int, int]:
        total = (0, 0)
        for g in groups:
            total = _plus(total, self.cost(self.groups[g]))
        return total


def _plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (a[0] + b[0], a[1] + b[1])

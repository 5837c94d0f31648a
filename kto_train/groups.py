"""KL groups: which rows are trained together, and whose completion each row's KL term is measured on.

A group is one microbatch of one device. TRL estimates the KL term of a microbatch on mismatched pairs (x, y'): each
prompt with the completion of the row before it, cyclically. So a group decides two things, the rows and their order,
and what it decides holds for the whole training:

- every row is in exactly one group, and no group has a single row (its y' would be its own y);
- the set of y' of a group is the set of its y;
- no row is paired with a completion equal to its own, as far as the data allows;
- prompt and partner's completion fit `max_length`, where an order or a neighbour can be found for which they do;
- labels are spread over the groups in their overall proportion, and rows of like length are together;
- the number of groups is a multiple of the number of ranks, so that all ranks take the same number of steps.

Pure: the same rows, batch size, seed and ranks give the same groups on every machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kto_data.errors import ConfigError

_BUCKETS_PER_DOUBLING = 8
"""Rows whose lengths differ by less than about 9 % are alike; the seed decides among them."""
_SEARCH_WINDOW = 512
"""How many groups to either side are asked for a row to exchange."""
_TAKERS_TRIED = 32
"""How many groups to either side are asked, of those known to be able to take a row."""
_FIT_WINDOW = 16
"""How many groups to either side are asked for a row under which a KL sequence fits."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What grouping needs to know of each row: four arrays of equal length, in dataset order."""

    label: NDArray[np.bool_]
    prompt_length: Ints  # tokens
    completion_length: Ints  # tokens
    completion_key: Ints  # equal for equal completions

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups, and what could not be had. `groups[g]` are the rows of group g, in the order of the batch."""

    order: Ints = field(repr=False)  # row numbers, group after group
    bounds: Ints = field(repr=False)  # group g is order[bounds[g]:bounds[g + 1]]
    num_self_pairs: int  # rows whose partner's completion equals their own (KTO406)
    num_cut: int  # rows whose KL sequence is over max_length and loses the tail of the partner's completion
    num_one_label: int  # groups with rows of one label only
    smallest: int
    largest: int
    padding_share: float  # of the tokens of all batches, those that are padding

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, group: int) -> list[int]:
        rows: list[int] = self.order[self.bounds[group] : self.bounds[group + 1]].tolist()
        return rows

    def epoch_order(self, seed: int, epoch: int) -> Ints:
        """The order in which the groups are trained in `epoch`: whole groups shuffled, alike on every rank."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))


class GroupBatchSampler:
    """Groups as batches, for a `DataLoader`; `batch_size` is None because groups need not be of one size.

    With `seed` None the groups come in their own order, as evaluation wants them.
    """

    batch_size = None
    drop_last = False

    def __init__(self, groups: Groups, seed: int | None) -> None:
        self.groups = groups
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the order of `epoch` from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[list[int]]:
        order = range(len(self.groups)) if self.seed is None else self.groups.epoch_order(self.seed, self.epoch)
        for group in order:
            yield self.groups[int(group)]


def build_groups(
    rows: Rows, *, batch_size: int, seed: int, num_ranks: int = 1, max_length: int | None = None
) -> Groups:
    """Groups of `rows` for microbatches of `batch_size` on `num_ranks` devices.

    Groups have at most `batch_size` rows, unless that would leave a group with a single row: then some have more.
    Raises `ConfigError` where no grouping exists (a batch size under two, or less than two rows a rank).
    """
    sizes = group_sizes(len(rows), batch_size, num_ranks)
    groups = _compose(rows, sizes, seed)
    _spread_equal_completions(groups, rows)
    groups = [_arrange(group, rows.completion_key) for group in groups]
    if max_length is not None:
        _Fitter(groups, rows, max_length).fit()
    return _measured(groups, rows, max_length)


def group_sizes(num_rows: int, batch_size: int, num_ranks: int) -> list[int]:
    """Sizes of the groups: as even as can be, at least two each, their number a multiple of `num_ranks`."""
    if batch_size < 2:
        raise ConfigError(
            f"a batch of {batch_size} has no other row to take a KL completion from",
            hint="per_device_train_batch_size of 2 or more; 4 or more is advised",
        )
    if num_rows < 2 * num_ranks:
        raise ConfigError(
            f"{num_rows} rows cannot be shared by {num_ranks} devices: each needs a group of at least two rows",
            hint=f"fewer devices (at most {num_rows // 2})" if num_rows >= 2 else "more data",
        )
    wanted = -(-num_rows // batch_size)
    number = -(-wanted // num_ranks) * num_ranks
    if num_rows < 2 * number:
        number = num_rows // 2 // num_ranks * num_ranks
    small, larger = divmod(num_rows, number)
    return [small + 1] * larger + [small] * (number - larger)


def min_self_pairs(largest_multiplicity: int, sizes: list[int]) -> int:
    """The fewest self-pairs that groups of these sizes allow when the commonest completion occurs that often.

    A cycle of m rows holds k equal completions apart from each other if k <= m / 2; after that each one more costs
    one pair where m is odd and k the first too many, and two pairs otherwise.
    """
    excess = max(0, largest_multiplicity - sum(size // 2 for size in sizes))
    odd = sum(size % 2 for size in sizes)
    return min(excess, odd) + 2 * max(0, excess - odd)


def _compose(rows: Rows, sizes: list[int], seed: int) -> list[list[int]]:
    """Rows dealt to groups: consecutive rows by length of either label, in the overall proportion of labels."""
    length = rows.prompt_length + rows.completion_length
    bucket = (np.log2(np.maximum(length, 1)) * _BUCKETS_PER_DOUBLING).astype(np.int64)
    shuffled = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    by_length = shuffled[np.argsort(bucket[shuffled], kind="stable")]
    desirable = by_length[rows.label[by_length]]
    undesirable = by_length[~rows.label[by_length]]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    shares = (bounds * len(desirable) + len(rows) // 2) // len(rows)  # desirable rows in the groups up to each bound
    return [
        [
            *desirable[shares[g] : shares[g + 1]].tolist(),
            *undesirable[bounds[g] - shares[g] : bounds[g + 1] - shares[g + 1]].tolist(),
        ]
        for g in range(len(sizes))
    ]


def _arrange(group: list[int], key: Ints) -> list[int]:
    """`group` in an order with the fewest equal neighbours on the cycle: the commonest completion on every other place."""
    keys = [int(key[row]) for row in group]
    counts = Counter(keys)
    if len(counts) == len(group):
        return group
    ranked = sorted(range(len(group)), key=lambda i: (-counts[keys[i]], keys[i]))
    places = [*range(0, len(group), 2), *range(1, len(group), 2)]
    arranged = [0] * len(group)
    for place, i in zip(places, ranked, strict=True):
        arranged[place] = group[i]
    return arranged


def _spread_equal_completions(groups: list[list[int]], rows: Rows) -> None:
    """Exchange rows between groups, near ones first, until none holds more of one completion than it can keep apart."""
    key = rows.completion_key
    if len(np.unique(key)) == len(key):
        return
    exchange = _Exchange(groups, rows)
    occurrences = Counter(key.tolist())
    least = min_self_pairs(max(occurrences.values()), [len(group) for group in groups])
    for same_label in (True, False):
        before = exchange.cost + 1
        while least < exchange.cost < before:
            before = exchange.cost
            for g in range(len(groups)):
                while exchange.cost_of(g) and exchange.improve(g, same_label):
                    pass
    if exchange.cost > least and len(groups) <= _SEARCH_WINDOW:
        dealt = _dealt(groups, rows, occurrences)
        if _Exchange(dealt, rows).cost < exchange.cost:
            groups[:] = dealt


class _Exchange:
    """Exchanges of one row for one row between two groups, each lowering the cost: self-pairs in the best orders."""

    def __init__(self, groups: list[list[int]], rows: Rows) -> None:
        self.groups = groups
        self.key = rows.completion_key.tolist()
        self.label = rows.label.tolist()
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
        """Exchange a row of g's commonest completion with a near group; False where no near exchange lowers the cost."""
        common = self.counts[g].most_common(1)[0][0]
        own = [i for i, row in enumerate(self.groups[g]) if self.key[row] == common]
        return any(self._exchange_with(g, own, h, same_label) for h in self._near(g, common) if h != g)

    def _can_take(self, g: int, kind: int) -> bool:
        return self.counts[g][kind] < (len(self.groups[g]) + 1) // 2

    def _near(self, g: int, kind: int) -> Iterator[int]:
        """Groups that might take one more of this completion, the nearest first."""
        if kind not in self.takers:
            yield from _outwards(g, len(self.groups), _SEARCH_WINDOW)
            return
        takers = self.takers[kind]
        middle = bisect_left(takers, g)
        for i in [middle, *_outwards(middle, len(takers), _TAKERS_TRIED)]:
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


def _outwards(middle: int, length: int, most: int) -> Iterator[int]:
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


def _dealt(groups: list[list[int]], rows: Rows, occurrences: Counter[int]) -> list[list[int]]:
    """All rows dealt anew, the commonest completion first, each to the group with most room for one more of its kind.

    The last resort of small data full of equal answers: lengths and labels are let go to keep equal answers apart.
    """
    key = rows.completion_key.tolist()
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


class _Fitter:
    """Brings prompt + partner's completion under `max_length` by reordering groups and exchanging rows with near ones."""

    def __init__(self, groups: list[list[int]], rows: Rows, max_length: int) -> None:
        self.groups = groups
        self.room = (max_length - rows.prompt_length).tolist()  # tokens that a completion may have behind each prompt
        self.length = rows.completion_length.tolist()
        self.key = rows.completion_key.tolist()
        self.label = rows.label.tolist()

    def fit(self) -> None:
        """Lower the number of cut KL sequences, never raising the number of self-pairs."""
        for g in range(len(self.groups)):
            if self.cost(self.groups[g])[1]:
                self.groups[g] = self.reorder(self.groups[g])
        for g in range(len(self.groups)):
            for distance in range(1, min(_FIT_WINDOW, len(self.groups))):
                for h in (g - distance, g + distance):
                    if 0 <= h < len(self.groups) and self.cost(self.groups[g])[1]:
                        self._exchange(g, h)

    def cost(self, group: list[int]) -> tuple[int, int]:
        """(self-pairs, cut KL sequences) of a group in this order."""
        self_pairs = cuts = 0
        for place, row in enumerate(group):
            partner = group[place - 1]
            self_pairs += self.key[row] == self.key[partner]
            cuts += self.length[partner] > self.room[row]
        return self_pairs, cuts

    def reorder(self, group: list[int]) -> list[int]:
        """The best order that exchanging two places at a time leads to."""
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

    def _exchange(self, g: int, h: int) -> None:
        mine, other = self.groups[g], self.groups[h]
        before = _plus(self.cost(mine), self.cost(other))
        for i, row in enumerate(mine):
            for j, candidate in enumerate(other):
                if self.label[row] != self.label[candidate]:
                    continue
                new_mine = self.reorder([*mine[:i], candidate, *mine[i + 1 :]])
                new_other = self.reorder([*other[:j], row, *other[j + 1 :]])
                after = _plus(self.cost(new_mine), self.cost(new_other))
                if after[0] <= before[0] and after[1] < before[1]:
                    self.groups[g], self.groups[h] = new_mine, new_other
                    return


def _plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (a[0] + b[0], a[1] + b[1])


def _measured(groups: list[list[int]], rows: Rows, max_length: int | None) -> Groups:
    order = np.array([row for group in groups for row in group], dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
    partner = np.array([row for group in groups for row in (group[-1], *group[:-1])], dtype=np.int64)
    key, length = rows.completion_key, rows.prompt_length + rows.completion_length
    kl_length = rows.prompt_length[order] + rows.completion_length[partner]
    sizes = np.diff(bounds)
    desirable = np.add.reduceat(rows.label[order].astype(np.int64), bounds[:-1])
    padded = int((np.maximum.reduceat(length[order], bounds[:-1]) * sizes).sum())
    return Groups(
        order=order,
        bounds=bounds,
        num_self_pairs=int((key[order] == key[partner]).sum()),
        num_cut=0 if max_length is None else int((kl_length > max_length).sum()),
        num_one_label=int(((desirable == 0) | (desirable == sizes)).sum()),
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        padding_share=1 - int(length.sum()) / padded,
    )

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

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kto_data.pairing import group_sizes, label_shares
from kto_train.partners import Fitter, arrange, spread_equal_completions

_BUCKETS_PER_DOUBLING = 8
"""Rows whose lengths differ by less than about 9 % are alike; the seed decides among them."""
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
    rows: Rows,
    *,
    batch_size: int,
    seed: int,
    num_ranks: int = 1,
    max_length: int | None = None,
    paired: bool = True,
) -> Groups:
    """Groups of `rows` for microbatches of `batch_size` on `num_ranks` devices.

    `paired=False` is for a loss without a KL term: partners do not matter, and a group may have a single row.
    Groups have at most `batch_size` rows, unless that would leave a group with a single row: then some have more.
    Raises `ConfigError` where no grouping exists (a batch size under two, or less than two rows a rank).
    """
    sizes = group_sizes(len(rows), batch_size, num_ranks, least=2 if paired else 1)
    groups = _compose(rows, sizes, seed)
    if not paired:
        return _measured(groups, rows, max_length=None)
    keys, labels = rows.completion_key.tolist(), rows.label.tolist()
    spread_equal_completions(groups, keys, labels)
    groups = [arrange(group, keys) for group in groups]
    if max_length is not None:
        room, length = (max_length - rows.prompt_length).tolist(), rows.completion_length.tolist()
        Fitter(groups, keys, labels, room=room, length=length).fit()
    return _measured(groups, rows, max_length)


def _compose(rows: Rows, sizes: list[int], seed: int) -> list[list[int]]:
    """Rows dealt to groups: consecutive rows by length of either label, in the overall proportion of labels."""
    length = rows.prompt_length + rows.completion_length
    bucket = (np.log2(np.maximum(length, 1)) * _BUCKETS_PER_DOUBLING).astype(np.int64)
    shuffled = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    by_length = shuffled[np.argsort(bucket[shuffled], kind="stable")]
    desirable = by_length[rows.label[by_length]]
    undesirable = by_length[~rows.label[by_length]]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    # Desirable rows in the groups up to each bound.
    shares = np.concatenate([[0], np.cumsum(label_shares(len(rows), len(desirable), sizes))]).astype(np.int64)
    return [
        [
            *desirable[shares[g] : shares[g + 1]].tolist(),
            *undesirable[bounds[g] - shares[g] : bounds[g + 1] - shares[g + 1]].tolist(),
        ]
        for g in range(len(sizes))
    ]


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

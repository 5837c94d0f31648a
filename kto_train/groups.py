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
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from kto_data.pairing import group_sizes, label_shares
from kto_train.fitting import Fitter
from kto_train.partners import arrange, spread_equal_completions

if TYPE_CHECKING:
    from trl import KTOConfig

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
    random_padding_share: float  # the same, had lengths not been looked at
    num_ranks: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, group: int) -> list[int]:
        rows: list[int] = self.order[self.bounds[group] : self.bounds[group + 1]].tolist()
        return rows

    def epoch_order(self, seed: int, epoch: int) -> Ints:
        """The order in which the groups are trained in `epoch`: whole groups shuffled, alike on every rank.

        The ranks take the groups in turn. Those that are trained at the same time are neighbours, and so of like
        length: no rank waits for another.
        """
        steps = np.random.default_rng([seed, epoch]).permutation(len(self) // self.num_ranks)
        return (steps[:, None] * self.num_ranks + np.arange(self.num_ranks)).ravel()

    def fingerprint(self) -> str:
        """A hash of the rows of all groups and their order."""
        return xxhash.xxh3_64_hexdigest(self.order.tobytes() + self.bounds.tobytes())


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


def worker_settings(args: KTOConfig) -> dict[str, Any]:
    """What `args` says of the processes that load batches, as `DataLoader` takes it."""
    return {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
    }


def build_groups(
    rows: Rows,
    *,
    batch_size: int,
    seed: int,
    num_ranks: int = 1,
    max_length: int | None = None,
    paired: bool = True,
    by_length: bool = True,
) -> Groups:
    """Groups of `rows` for microbatches of `batch_size` on `num_ranks` devices.

    `by_length=False` puts rows together without looking at their lengths: more padding, and nothing else.
    `paired=False` is for a loss without a KL term: partners do not matter, and a group may have a single row.
    Groups have at most `batch_size` rows, unless that would leave a group with a single row: then some have more.
    Raises `ConfigError` where no grouping exists (a batch size under two, or less than two rows a rank).
    """
    sizes = group_sizes(len(rows), batch_size, num_ranks, least=2 if paired else 1)
    random = _compose(rows, sizes, seed, by_length=False)
    groups = _compose(rows, sizes, seed) if by_length else [group.copy() for group in random]
    if paired:
        keys, labels = rows.completion_key.tolist(), rows.label.tolist()
        spread_equal_completions(groups, keys, labels)
        groups = [arrange(group, keys) for group in groups]
        if max_length is not None:
            room, length = (max_length - rows.prompt_length).tolist(), rows.completion_length.tolist()
            Fitter(groups, keys, labels, room=room, length=length).fit()
    measured = _Measured(rows, groups, max_length if paired else None)
    return measured.groups(
        num_ranks=num_ranks,
        paired=paired,
        random_padding_share=_Measured(rows, random, None).padding_share(paired=paired),
    )


def seed_of_data(args: KTOConfig) -> int:
    """What decides groups and their order: `data_seed`, and where none is given `seed`, as with transformers."""
    return args.seed if args.data_seed is None else args.data_seed  # type: ignore[no-any-return]


def make_groups(
    rows: Rows, args: KTOConfig, max_length: int | None, *, batch_size: int | None = None, by_length: bool = True
) -> Groups:
    """The groups that `args` asks for; `batch_size` is that of training unless given."""
    return build_groups(
        rows,
        batch_size=args.per_device_train_batch_size if batch_size is None else batch_size,
        seed=seed_of_data(args),
        num_ranks=args.world_size,
        max_length=max_length,
        paired=args.loss_type != "apo_zero_unpaired",
        by_length=by_length,
    )


def _compose(rows: Rows, sizes: list[int], seed: int, *, by_length: bool = True) -> list[list[int]]:
    """Rows dealt to groups: consecutive rows by length of either label, in the overall proportion of labels."""
    dealt = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
    if by_length:
        length = rows.prompt_length + rows.completion_length
        bucket = (np.log2(np.maximum(length, 1)) * _BUCKETS_PER_DOUBLING).astype(np.int64)
        dealt = dealt[np.argsort(bucket[dealt], kind="stable")]
    desirable = dealt[rows.label[dealt]]
    undesirable = dealt[~rows.label[dealt]]
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


class _Measured:
    """What groups are like."""

    def __init__(self, rows: Rows, groups: list[list[int]], max_length: int | None) -> None:
        self.rows = rows
        self.order = np.array([row for group in groups for row in group], dtype=np.int64)
        self.bounds = np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
        self.partner = np.array([row for group in groups for row in (group[-1], *group[:-1])], dtype=np.int64)
        self.kl_length = rows.prompt_length[self.order] + rows.completion_length[self.partner]
        self.num_cut = 0
        if max_length is not None:
            self.num_cut = int((self.kl_length > max_length).sum())
            self.kl_length = np.minimum(self.kl_length, max_length)

    def padding_share(self, *, paired: bool) -> float:
        """Of the tokens of all batches, the KL sequences of `paired` rows among them, those that are padding."""
        length = (self.rows.prompt_length + self.rows.completion_length)[self.order]
        batches = [length, self.kl_length] if paired else [length]
        padded = sum(int((self._of_groups(np.maximum, tokens) * self.sizes).sum()) for tokens in batches)
        return 1 - int(sum(tokens.sum() for tokens in batches)) / padded

    def groups(self, *, num_ranks: int, paired: bool, random_padding_share: float) -> Groups:
        """The groups, with what was measured."""
        key = self.rows.completion_key
        desirable = self._of_groups(np.add, self.rows.label[self.order].astype(np.int64))
        return Groups(
            order=self.order,
            bounds=self.bounds,
            num_self_pairs=int((key[self.order] == key[self.partner]).sum()),
            num_cut=self.num_cut,
            num_one_label=int(((desirable == 0) | (desirable == self.sizes)).sum()),
            smallest=int(self.sizes.min()),
            largest=int(self.sizes.max()),
            padding_share=self.padding_share(paired=paired),
            random_padding_share=random_padding_share,
            num_ranks=num_ranks,
        )

    @property
    def sizes(self) -> Ints:
        """How many rows each group has."""
        return np.diff(self.bounds)

    def _of_groups(self, operation: np.ufunc, values: Ints) -> Ints:
        found: Ints = operation.reduceat(values, self.bounds[:-1])
        return found

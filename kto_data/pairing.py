"""The arithmetic of KL pairing: groups of rows, and how many of them cannot help being paired with themselves.

A group is one microbatch of one device; each row's KL term is measured on the completion of another row of its group.
Where that completion equals the row's own, the term is the row's own reward: a self-pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from kto_data.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatches:
    """What batches of `batch_size` samples a device would be like."""

    batch_size: int
    number: int
    smallest: int  # samples of the smallest: a batch of one has no other sample to measure its KL term on
    num_one_label_as_written: int  # of one label alone, samples taken in the order of the data
    share_one_label_shuffled: float  # the same, expected of samples in random order
    num_one_label_interleaved: int  # the same, labels spread over the batches in proportion
    num_self_pairs: int  # samples that no grouping spares from being paired with their own completion


def microbatches(labels: bytes, commonest: Sequence[int], batch_size: int) -> Microbatches:
    """The batches of two or more samples. `labels`: one byte each in the order of the data, 1 where it is desirable;
    `commonest`: how often the two commonest completions occur (one number where all are equal)."""
    total, num_desirable = len(labels), labels.count(1)
    sizes = group_sizes(total, batch_size, 1, least=min(2, batch_size))
    starts = range(0, total, batch_size)
    shares = label_shares(total, num_desirable, sizes)
    return Microbatches(
        batch_size=batch_size,
        number=len(sizes),
        smallest=min(sizes),
        num_one_label_as_written=sum(len(set(labels[start : start + batch_size])) == 1 for start in starts),
        share_one_label_shuffled=sum(
            prod((number - drawn) / (total - drawn) for drawn in range(min(batch_size, total)))
            for number in (num_desirable, total - num_desirable)
        ),
        num_one_label_interleaved=sum(share in (0, size) for share, size in zip(shares, sizes, strict=True)),
        num_self_pairs=least_self_pairs(commonest, total, batch_size),
    )


def group_sizes(num_rows: int, batch_size: int, num_ranks: int, *, least: int = 2) -> list[int]:
    """Sizes of the groups: as even as can be, `least` or more each, their number a multiple of `num_ranks`."""
    if batch_size < least:
        raise ConfigError(
            f"a batch of {batch_size} has no other row to take a KL completion from",
            hint="per_device_train_batch_size of 2 or more; 4 or more is advised",
        )
    if num_rows < least * num_ranks:
        raise ConfigError(
            f"{num_rows} rows cannot be shared by {num_ranks} devices: each needs a group of at least {least} rows",
            hint=f"fewer devices (at most {num_rows // least})" if num_rows >= least else "more data",
        )
    wanted = -(-num_rows // batch_size)
    number = -(-wanted // num_ranks) * num_ranks
    if num_rows < least * number:
        number = num_rows // least // num_ranks * num_ranks
    small, larger = divmod(num_rows, number)
    return [small + 1] * larger + [small] * (number - larger)


def fewest_self_pairs(commonest: Sequence[int], num_rows: int, sizes: Sequence[int]) -> int:
    """The fewest self-pairs that groups of these sizes can have; `commonest`: how often the two commonest completions
    occur among `num_rows` (one number where all are equal).

    A cycle of m rows keeps k equal completions apart if k <= m / 2. After that one more costs one pair where m is odd
    and it is the first too many, and two pairs otherwise. And an odd group of two completions always has a pair: each
    odd group needs a row of a third.
    """
    odd = sum(size % 2 for size in sizes)
    excess = max(0, commonest[0] - sum(size // 2 for size in sizes))
    others = num_rows - sum(commonest)
    return max(min(excess, odd) + 2 * max(0, excess - odd), odd - others)


def least_self_pairs(commonest: Sequence[int], num_rows: int, batch_size: int) -> int:
    """The fewest self-pairs of rows in batches of `batch_size`; all rows where a batch has no other row."""
    if batch_size < 2 or num_rows < 2:
        return num_rows
    return fewest_self_pairs(commonest, num_rows, group_sizes(num_rows, batch_size, 1))


def label_shares(num_rows: int, num_desirable: int, sizes: Sequence[int]) -> list[int]:
    """How many desirable rows each group gets where labels are spread over the groups in their overall proportion."""
    shares = []
    bound = dealt = 0
    for size in sizes:
        bound += size
        due = (bound * num_desirable + num_rows // 2) // num_rows
        shares.append(due - dealt)
        dealt = due
    return shares

"""The arithmetic of KL pairing: groups of rows, and how many of them cannot help being paired with themselves.

A group is one microbatch of one device; each row's KL term is measured on the completion of another row of its group.
Where that completion equals the row's own, the term is the row's own reward: a self-pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from kto_data.errors import ConfigError


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

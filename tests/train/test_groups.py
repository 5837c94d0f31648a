from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kto_data.errors import ConfigError
from kto_data.pairing import group_sizes
from kto_train.groups import GroupBatchSampler, Groups, Rows, build_groups
from kto_train.partners import min_self_pairs


def make_rows(
    keys: list[int],
    labels: list[bool] | None = None,
    prompts: list[int] | None = None,
    completions: list[int] | None = None,
) -> Rows:
    n = len(keys)
    return Rows(
        label=np.array(labels if labels is not None else [i % 2 == 0 for i in range(n)], dtype=np.bool_),
        prompt_length=np.array(prompts if prompts is not None else [5] * n, dtype=np.int64),
        completion_length=np.array(completions if completions is not None else [3] * n, dtype=np.int64),
        completion_key=np.array(keys, dtype=np.int64),
    )


@st.composite
def rows_and_sizes(draw: st.DrawFn, max_rows: int = 40, max_key: int = 8) -> tuple[Rows, int, int]:
    ranks = draw(st.integers(1, 4))
    n = draw(st.integers(2 * ranks, max(2 * ranks, max_rows)))
    column = lambda element: st.lists(element, min_size=n, max_size=n)  # noqa: E731
    rows = make_rows(
        draw(column(st.integers(0, max_key))),
        draw(column(st.booleans())),
        draw(column(st.integers(1, 60))),
        draw(column(st.integers(1, 60))),
    )
    return rows, draw(st.integers(2, 8)), ranks


def as_lists(groups: Groups) -> list[list[int]]:
    return [groups[g] for g in range(len(groups))]


@given(rows_and_sizes(), st.integers(0, 5), st.none() | st.integers(10, 120))
def test_every_row_is_in_one_group_and_no_group_has_one_row(
    case: tuple[Rows, int, int], seed: int, max_length: int | None
) -> None:
    rows, batch_size, ranks = case
    groups = build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks, max_length=max_length)
    assert sorted(groups.order.tolist()) == list(range(len(rows)))
    assert [row for group in as_lists(groups) for row in group] == groups.order.tolist()
    assert min(map(len, as_lists(groups))) == groups.smallest >= 2
    assert len(groups) % ranks == 0


@given(st.integers(2, 400), st.integers(2, 16), st.integers(1, 8))
def test_groups_are_as_even_as_can_be_and_within_the_batch_size_where_two_a_group_allows(
    n: int, batch_size: int, ranks: int
) -> None:
    if n < 2 * ranks:
        with pytest.raises(ConfigError, match=r"cannot be shared by"):
            group_sizes(n, batch_size, ranks)
        return
    sizes = group_sizes(n, batch_size, ranks)
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    fits = [k for k in range(ranks, n // 2 + 1, ranks) if k * batch_size >= n]
    if fits:
        assert len(sizes) == fits[0]
        assert max(sizes) <= batch_size
    else:
        assert len(sizes) == n // 2 // ranks * ranks


@given(rows_and_sizes(max_key=3), st.integers(0, 3))
def test_no_row_is_paired_with_an_equal_completion_where_that_can_be_avoided(
    case: tuple[Rows, int, int], seed: int
) -> None:
    rows, batch_size, ranks = case
    groups = build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks)
    sizes = [len(group) for group in as_lists(groups)]
    assert groups.num_self_pairs == min_self_pairs(rows.completion_key.tolist(), sizes)


@given(rows_and_sizes(max_key=3), st.integers(0, 3), st.integers(20, 120))
def test_fitting_to_a_length_adds_no_self_pair(case: tuple[Rows, int, int], seed: int, max_length: int) -> None:
    rows, batch_size, ranks = case
    groups = build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks, max_length=max_length)
    sizes = [len(group) for group in as_lists(groups)]
    assert groups.num_self_pairs == min_self_pairs(rows.completion_key.tolist(), sizes)


def test_two_answers_in_odd_groups_pair_once_a_group() -> None:
    groups = build_groups(make_rows([0, 0, 0, 1, 1, 1]), batch_size=3, seed=0)
    assert groups.num_self_pairs == min_self_pairs([0, 0, 0, 1, 1, 1], [3, 3]) == 2


def fewest_by_trying_all(keys: list[int], sizes: list[int]) -> int:
    best = len(keys)
    for order in set(permutations(keys)):
        start, found = 0, 0
        for size in sizes:
            group = order[start : start + size]
            found += sum(group[i] == group[i - 1] for i in range(size))
            start += size
        best = min(best, found)
    return best


@given(st.lists(st.integers(0, 2), min_size=2, max_size=8), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_the_fewest_self_pairs_are_those_of_trying_all_orders(keys: list[int], batch_size: int) -> None:
    groups = build_groups(make_rows(keys), batch_size=batch_size, seed=0)
    sizes = [len(group) for group in as_lists(groups)]
    assert groups.num_self_pairs == fewest_by_trying_all(keys, sizes)


def fewest_cuts_by_trying_all(rows: Rows, sizes: list[int], max_length: int) -> int:
    best = len(rows)
    for order in permutations(range(len(rows))):
        start = found = 0
        for size in sizes:
            group = order[start : start + size]
            found += sum(
                rows.prompt_length[group[i]] + rows.completion_length[group[i - 1]] > max_length for i in range(size)
            )
            start += size
        best = min(best, found)
        if not best:
            break
    return best


@given(st.lists(st.tuples(st.integers(1, 19), st.integers(1, 19)), min_size=2, max_size=6), st.integers(2, 3))
@settings(max_examples=60, deadline=None)
@example(lengths=[(1, 1), (1, 3), (1, 1), (1, 3), (18, 2), (19, 1)], batch_size=2)  # no two groups mend it
def test_as_few_kl_sequences_are_cut_as_in_any_order(lengths: list[tuple[int, int]], batch_size: int) -> None:
    prompts, completions = [p for p, _ in lengths], [min(c, 20 - p) for p, c in lengths]
    rows = make_rows(list(range(len(lengths))), None, prompts, completions)
    groups = build_groups(rows, batch_size=batch_size, seed=0, max_length=20)
    assert groups.num_cut == fewest_cuts_by_trying_all(rows, [len(group) for group in as_lists(groups)], 20)


@given(rows_and_sizes(), st.integers(0, 5), st.integers(20, 120))
def test_what_could_not_be_had_is_counted(case: tuple[Rows, int, int], seed: int, max_length: int) -> None:
    rows, batch_size, ranks = case
    groups = build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks, max_length=max_length)
    pairs = [(group[i], group[i - 1]) for group in as_lists(groups) for i in range(len(group))]
    key, prompt, completion = rows.completion_key, rows.prompt_length, rows.completion_length
    assert groups.num_self_pairs == sum(key[x] == key[y] for x, y in pairs)
    assert groups.num_cut == sum(prompt[x] + completion[y] > max_length for x, y in pairs)
    one_label = [group for group in as_lists(groups) if len({bool(rows.label[row]) for row in group}) == 1]
    assert groups.num_one_label == len(one_label)


@given(rows_and_sizes(), st.integers(0, 5))
def test_the_completions_of_the_partners_are_those_of_the_group(case: tuple[Rows, int, int], seed: int) -> None:
    rows, batch_size, ranks = case
    for group in as_lists(build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks)):
        assert sorted([group[-1], *group[:-1]]) == sorted(group)


@given(rows_and_sizes(), st.integers(0, 5), st.integers(0, 3))
def test_the_same_seed_gives_the_same_groups_and_epochs(case: tuple[Rows, int, int], seed: int, epoch: int) -> None:
    rows, batch_size, ranks = case
    one, two = (build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks) for _ in range(2))
    assert as_lists(one) == as_lists(two)
    assert one.epoch_order(seed, epoch).tolist() == two.epoch_order(seed, epoch).tolist()


@given(rows_and_sizes(), st.integers(0, 5), st.integers(0, 3))
def test_the_ranks_together_train_every_row_once_an_epoch(case: tuple[Rows, int, int], seed: int, epoch: int) -> None:
    rows, batch_size, ranks = case
    sampler = GroupBatchSampler(build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks), seed)
    sampler.set_epoch(epoch)
    shards = [list(BatchSamplerShard(sampler, ranks, rank)) for rank in range(ranks)]
    assert len({len(shard) for shard in shards}) == 1
    assert sorted(row for shard in shards for group in shard for row in group) == list(range(len(rows)))


def test_groups_that_are_trained_at_the_same_time_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 256).tolist()
    groups = build_groups(make_rows(list(range(256)), prompts=lengths), batch_size=4, seed=0, num_ranks=2)
    longest = [max(lengths[row] for row in groups[g]) for g in groups.epoch_order(0, 1)]
    waiting = sum(abs(one - other) for one, other in zip(longest[::2], longest[1::2], strict=True)) / 32
    assert waiting < 60  # of 333 where groups are trained in any order


@given(rows_and_sizes(), st.integers(0, 5), st.integers(0, 3), st.integers(0, 10))
def test_skipping_the_first_batches_gives_the_rest_of_the_epoch(
    case: tuple[Rows, int, int], seed: int, epoch: int, skip: int
) -> None:
    rows, batch_size, ranks = case
    groups = build_groups(rows, batch_size=batch_size, seed=seed, num_ranks=ranks)
    first, resumed = GroupBatchSampler(groups, seed), GroupBatchSampler(groups, seed)
    first.set_epoch(epoch)
    resumed.set_epoch(epoch)
    assert list(first)[skip:] == list(resumed)[skip:]
    assert sorted(map(tuple, first)) == sorted(map(tuple, as_lists(groups)))


def test_epochs_differ_in_order_and_not_in_groups() -> None:
    sampler = GroupBatchSampler(build_groups(make_rows(list(range(64))), batch_size=4, seed=0), seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second)


def test_labels_are_spread_over_groups_in_their_proportion() -> None:
    labels = [i < 16 for i in range(64)]
    groups = build_groups(make_rows(list(range(64)), labels), batch_size=4, seed=3)
    assert [sum(labels[row] for row in group) for group in as_lists(groups)] == [1] * 16


def test_rows_of_like_length_are_together() -> None:
    lengths = [10, 100] * 16
    labels = [i % 4 < 2 for i in range(32)]
    groups = build_groups(make_rows(list(range(32)), labels, lengths), batch_size=4, seed=0)
    assert groups.padding_share < 0.25
    assert sum(len({lengths[row] for row in group}) == 1 for group in as_lists(groups)) >= 6


@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_padding_of_mixed_lengths_is_at_least_a_third_less(batch_size: int) -> None:
    lengths = np.random.default_rng(1)
    prompts, completions = (np.clip(lengths.lognormal(mean, 1, 1000), 4, 2000).astype(int) for mean in (5, 4))
    labels = (lengths.random(1000) < 0.7).tolist()
    rows = make_rows(list(range(1000)), labels, prompts.tolist(), completions.tolist())
    by_length = build_groups(rows, batch_size=batch_size, seed=0)
    at_random = build_groups(rows, batch_size=batch_size, seed=0, by_length=False)
    assert by_length.padding_share <= 2 / 3 * at_random.padding_share
    assert by_length.random_padding_share == at_random.padding_share == at_random.random_padding_share
    assert at_random.num_one_label == 0


def test_partners_are_chosen_so_that_kl_sequences_fit() -> None:
    prompts, completions = [50, 10, 50, 10], [10, 50, 10, 50]
    rows = make_rows([0, 1, 2, 3], [True, False, False, True], prompts, completions)
    groups = build_groups(rows, batch_size=2, seed=0, max_length=60)
    assert groups.num_cut == 0


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="no other row"):
        build_groups(make_rows([0, 1, 2]), batch_size=1, seed=0)

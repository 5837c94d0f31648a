"""Which lines go to which side: laws that hold for any data."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_data.policy import Contradictions
from kto_data.split import Samples, contradicting_lines, groups, lines_of_evaluation

FAR = 1_000_000  # apart from any prompt: keys of images


class Line(NamedTuple):
    prompt: int
    images: tuple[int, ...] = ()
    label: bool = True
    source: int = 0
    completion: int = 0


few = st.integers(0, 12)
line = st.builds(Line, few, st.lists(few, max_size=2).map(tuple), st.booleans(), st.integers(0, 2), st.integers(0, 2))
data = st.lists(line, max_size=14)
fraction = st.sampled_from([0.02, 0.1, 0.5, 0.9])


def samples_of(lines: list[Line]) -> Samples:
    def column(values: list[int], dtype: Any) -> Any:
        return np.array(values, dtype)

    shown = [(index, image) for index, line in enumerate(lines) for image in line.images]
    return Samples(
        lines=column(list(range(len(lines))), np.uint32),
        prompts=column([line.prompt for line in lines], np.uint64),
        completions=column([line.completion for line in lines], np.uint64),
        labels=column([line.label for line in lines], np.bool_),
        sources=column([line.source for line in lines], np.uint32),
        images=column([FAR + image for _, image in shown], np.uint64),
        image_lines=column([index for index, _ in shown], np.uint32),
    )


def grouped(lines: list[Line]) -> list[int]:
    return [int(first) for first in groups(samples_of(lines), len(lines))]


def evaluated(lines: list[Line], fraction: float, seed: int = 0) -> list[bool]:
    samples = samples_of(lines)
    sides = lines_of_evaluation(samples, groups(samples, len(lines)), fraction=fraction, seed=seed)
    return [bool(side) for side in sides]


def keys_of(line: Line) -> set[int]:
    return {line.prompt, *(FAR + image for image in line.images)}


def grouped_slowly(lines: list[Line]) -> list[int]:
    """The same, by walking from line to line."""
    first: list[int] = []
    for start in range(len(lines)):
        reached, waiting = {start}, [start]
        while waiting:
            here = keys_of(lines[waiting.pop()])
            new = {i for i, other in enumerate(lines) if i not in reached and not here.isdisjoint(keys_of(other))}
            reached |= new
            waiting += new
        first.append(min(reached))
    return first


@given(data)
def test_a_group_is_all_that_can_be_reached_over_prompts_and_images(lines: list[Line]) -> None:
    assert grouped(lines) == grouped_slowly(lines)


def test_a_long_chain_is_one_group() -> None:
    order = list(range(2000))
    random.Random(0).shuffle(order)
    assert set(grouped([Line(5_000 + link, (link, link + 1)) for link in order])) == {0}


@given(data, fraction, st.integers(0, 3))
def test_no_prompt_and_no_image_is_on_both_sides(lines: list[Line], fraction: float, seed: int) -> None:
    sides: dict[bool, set[int]] = {True: set(), False: set()}
    for line, side in zip(lines, evaluated(lines, fraction, seed), strict=True):
        sides[side] |= keys_of(line)
    assert sides[True].isdisjoint(sides[False])


@given(data, data, fraction, st.integers(0, 3))
def test_added_lines_move_no_old_one_unless_they_tie_groups_together(
    old: list[Line], added: list[Line], fraction: float, seed: int
) -> None:
    if grouped(old + added)[: len(old)] == grouped(old):
        assert evaluated(old + added, fraction, seed)[: len(old)] == evaluated(old, fraction, seed)


@given(data, fraction, st.integers(0, 3))
def test_no_side_is_empty_where_there_are_two_groups(lines: list[Line], fraction: float, seed: int) -> None:
    first = grouped(lines)
    sides = evaluated(lines, fraction, seed)
    if len(set(first)) > 1:
        assert set(sides) == {True, False}
    for label in (True, False):
        heads = [index for index in sorted(set(first)) if lines[index].label is label]
        if len(heads) > 1:
            assert {sides[head] for head in heads} == {True, False}


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.8])
def test_each_label_of_each_source_has_its_share(fraction: float) -> None:
    chance = random.Random(1)
    lines = [
        Line(chance.randrange(1 << 60), (), chance.random() < 0.7, chance.choice([0, 0, 0, 1])) for _ in range(40_000)
    ]
    total = Counter((line.label, line.source) for line in lines)
    held = Counter(
        (line.label, line.source) for line, side in zip(lines, evaluated(lines, fraction), strict=True) if side
    )
    for stratum, number in total.items():
        deviation = (number * fraction * (1 - fraction)) ** 0.5
        assert abs(held[stratum] - number * fraction) < 4 * deviation


def test_a_source_is_on_both_sides_as_soon_as_two_of_its_groups_are_due_there() -> None:
    for seed in range(40):
        chance = random.Random(seed)
        lines = [Line(chance.randrange(1 << 60), (), True, number % 5) for number in range(100)]
        held = {line.source for line, side in zip(lines, evaluated(lines, 0.1, seed), strict=True) if side}
        assert held == set(range(5))


def test_another_seed_draws_others() -> None:
    lines = [Line(number) for number in range(200)]
    drawn = {tuple(evaluated(lines, 0.1, seed)) for seed in range(10)}
    assert len(drawn) == 10


@given(data)
def test_what_contradicts_goes_as_the_policy_says(lines: list[Line]) -> None:
    votes: dict[tuple[int, int], Counter[bool]] = {}
    for line in lines:
        votes.setdefault((line.prompt, line.completion), Counter())[line.label] += 1
    drop, majority = set(), set()
    for index, line in enumerate(lines):
        of_line = votes[line.prompt, line.completion]
        if len(of_line) == 2:
            drop.add(index)
            if of_line[line.label] <= of_line[not line.label]:
                majority.add(index)
    samples = samples_of(lines)
    assert set(contradicting_lines(samples, Contradictions.KEEP).tolist()) == set()
    assert set(contradicting_lines(samples, Contradictions.DROP).tolist()) == drop
    assert set(contradicting_lines(samples, Contradictions.MAJORITY).tolist()) == majority

"""Which lines are held back for evaluation, and which contradict each other: told from numbers, without the lines.

Lines that share a prompt or an image, directly or through others, are a group, and a group is on one side. Which one is
drawn from the prompt of its first line and the seed. The few groups that are put on a side lest a label or a source be
missing there are chosen by what stands before them. So what is added at the end of the data moves no line that was
there, unless it ties two groups into one; what is added elsewhere moves few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from kto_data.digest import join_digests
from kto_data.policy import Contradictions

_EXPECTED = 2
"""Groups that a stratum must have been due on a side before it is given one there: one that is due a single group is
without it too often for that to be a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The samples of all lines that can be trained on, in the order of the data. The first five have an entry each."""

    lines: NDArray[np.uint32]  # of which line, 0-based, ascending: a paired line has two samples
    prompts: NDArray[np.uint64]  # 64-bit numbers, see `kto_data.digest`
    completions: NDArray[np.uint64]
    labels: NDArray[np.bool_]
    sources: NDArray[np.uint32]  # a number for each name
    images: NDArray[np.uint64]  # of the bytes of each image of a line
    image_lines: NDArray[np.uint32]  # of which line each of them is, ascending


def groups(samples: Samples, num_lines: int) -> NDArray[np.uint32]:
    """The first line of the group of each of `num_lines` lines; a line without samples is a group by itself."""
    edges = [_edges(samples.prompts, samples.lines), _edges(samples.images, samples.image_lines)]
    left, right = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    return _connected(left, right, num_lines)


def _edges(keys: NDArray[np.uint64], lines: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Each line whose key was there before, and the first line that has it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_again = np.concatenate(([False], ordered[1:] == ordered[:-1])) if len(keys) else np.zeros(0, bool)
    starts, again = np.flatnonzero(~is_again), np.flatnonzero(is_again)
    firsts = starts[np.searchsorted(starts, again, side="right") - 1]
    return lines[order[again]], lines[order[firsts]]


def _connected(left: NDArray[np.uint32], right: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    """The least node that each of `number` nodes is connected with, itself included."""
    roots = np.arange(number, dtype=np.uint32)
    while len(left):
        least = np.minimum(roots[left], roots[right])
        np.minimum.at(roots, roots[left], least)
        np.minimum.at(roots, roots[right], least)
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        is_open = roots[left] != roots[right]
        left, right = left[is_open], right[is_open]
    return roots


def lines_of_evaluation(
    samples: Samples, first_lines: NDArray[np.uint32], *, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Whether each line is held back for evaluation, given the first line of its group.

    About `fraction` of each label and each source is, and both sides have some of each label that two groups or more
    begin with. Lines without samples are not. Where there is one group alone, all of it is on one side.
    """
    assert 0 < fraction < 1
    heads, first_samples = np.unique(samples.lines, return_index=True)
    is_head = first_lines[heads] == heads
    heads, first_samples = heads[is_head], first_samples[is_head]
    is_drawn = _scattered(samples.prompts[first_samples], seed) < np.uint64(fraction * 2**64)
    labels = samples.labels[first_samples]
    strata = samples.sources[first_samples].astype(np.uint64) * np.uint64(2) + labels
    for members in (np.arange(len(heads))[:2], np.flatnonzero(labels)[:2], np.flatnonzero(~labels)[:2]):
        if len(members) == 2:
            is_drawn[members[1]] = not is_drawn[members[0]]
    _give_a_share(is_drawn, strata, math.ceil(_EXPECTED / min(fraction, 1 - fraction)))
    is_evaluated = np.zeros(len(first_lines), bool)
    is_evaluated[heads] = is_drawn
    return is_evaluated[first_lines]


def _give_a_share(is_drawn: NDArray[np.bool_], strata: NDArray[np.uint64], wait: int) -> None:
    """Put the group number `wait` of a stratum on the other side where all before it are on one."""
    order = np.argsort(strata, kind="stable")
    _, starts, counts = np.unique(strata[order], return_index=True, return_counts=True)
    for start in starts[counts >= wait]:
        members = order[start : start + wait]
        is_drawn[members[-1]] ^= bool((is_drawn[members] == is_drawn[members[0]]).all())


def _scattered(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Other numbers for each seed, evenly spread."""
    mixed = keys ^ np.uint64(xxhash.xxh3_64_intdigest(b"%d" % seed))
    for _ in range(2):  # as in the last steps of MurmurHash3
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return mixed ^ (mixed >> np.uint64(33))


def contradicting_lines(samples: Samples, policy: Contradictions) -> NDArray[np.uint32]:
    """The lines that go because the same prompt, images and completion come with the other label too.

    With `MAJORITY` those of the rarer label, or all where both are as frequent. A paired line goes as a whole.
    """
    if policy is Contradictions.KEEP:
        return np.zeros(0, np.uint32)
    keys = join_digests(samples.prompts, samples.completions)
    order = np.argsort(keys, kind="stable")
    ordered, labels = keys[order], samples.labels[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else np.zeros(0, int)
    sizes = np.diff(starts, append=len(keys))
    num_desirable: NDArray[Any] = np.add.reduceat(labels, starts, dtype=np.int64) if len(keys) else np.zeros(0, int)
    goes_desirable = (num_desirable > 0) & (num_desirable < sizes)
    goes_undesirable = goes_desirable.copy()
    if policy is Contradictions.MAJORITY:
        goes_desirable &= 2 * num_desirable <= sizes
        goes_undesirable &= 2 * num_desirable >= sizes
    goes = np.where(labels, np.repeat(goes_desirable, sizes), np.repeat(goes_undesirable, sizes))
    return np.unique(samples.lines[order[goes]])

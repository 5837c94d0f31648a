"""What every engine promises: results in the order of the units, however they were come by.

Unit(s) ─▶ submitted, so many at a time ─▶ Result(s), in the same order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Handle = TypeVar("Handle")


def never(unit: object) -> bool:
    """No unit needs to be alone."""
    return False


class Engine(Protocol):
    """A place where work runs."""

    def __call__(
        self,
        work: Callable[[Unit], Result],
        units: Iterable[Unit],
        *,
        jobs: int,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[object, ...] = (),
        is_alone: Callable[[Unit], bool] = never,
        may_fork: bool = False,
        if_lost: Callable[[Unit], Result] | None = None,
    ) -> Iterator[Result]:
        """`work(unit)` for each unit, results in the order of the units.

        `work`, `initializer` and all values that pass must be picklable. `initializer(*initargs)` runs once a process,
        before its first unit. While a unit that `is_alone` is worked on, no other is, nor is one drawn: two of them
        would fill the memory. `may_fork` says that no library suffers from a fork that `work` uses. An exception of
        `work` is raised here, in the place of that unit's result. Where an engine knows which unit its workers die of,
        `if_lost(unit)` takes the place of the result and the others go on; `InputError` is raised where it does not
        know, or there is no `if_lost`.
        """
        ...


class Opened(NamedTuple):
    """An engine that is ready for work."""

    run: Engine
    jobs: int  # units that it can work on at a time


def in_order(
    units: Iterable[Unit],
    submit: Callable[[Unit], Handle],
    take: Callable[[Handle], Result],
    pending: deque[Handle],
    *,
    most: int,
    is_alone: Callable[[Unit], bool],
) -> Iterator[Result]:
    """`take(submit(unit))` for each unit, at most `most` of them submitted and not yet taken.

    `pending` has those at any time, for whoever must end them.
    """
    for unit in units:
        limit = 0 if is_alone(unit) else most
        while pending and not limit:
            yield take(pending.popleft())
        pending.append(submit(unit))
        while len(pending) > limit:
            yield take(pending.popleft())
    while pending:
        yield take(pending.popleft())

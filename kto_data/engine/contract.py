"""What every engine promises: results in the order of the units, however they were come by.

Unit(s) ─▶ submitted, so many at a time ─▶ Result(s), in the same order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Handle = TypeVar("Handle")


def never(unit: object) -> bool:
    """No unit needs to be alone."""
    return False


@dataclass(frozen=True, slots=True)
class Work(Generic[Unit, Result]):
    """What is done with each unit. The functions to be called in other processes, and all that passes, can be pickled.

    Where an engine knows which unit its workers die of, `if_lost(unit)` takes the place of the result and the others go
    on; `InputError` is raised where it does not know, or there is no `if_lost`.
    """

    call: Callable[[Unit], Result]
    initializer: Callable[..., None] | None = None  # called once a process, before its first unit,
    initargs: tuple[object, ...] = ()  # with these
    is_alone: Callable[[Unit], bool] = never  # no other is drawn or worked on meanwhile: two would fill the memory
    may_fork: bool = False  # no library that is used suffers from a fork
    if_lost: Callable[[Unit], Result] | None = None  # called in this process
    reads: tuple[str, ...] = ()  # paths of files and folders that every process must see
    folder: Path | None = None  # that `call` writes to: it is there, and every process must see it,
    call_afar: Callable[[Unit], Result] | None = None  # unless there is this to be called where machines may be many
    name: Callable[[Unit], str] = str  # what a unit is called where people watch an engine


class Engine(Protocol):
    """A place where work runs."""

    def __call__(self, work: Work[Unit, Result], units: Iterable[Unit], *, jobs: int) -> Iterator[Result]:
        """`work.call(unit)` for each unit, results in the order of the units.

        An exception of it is raised here, in the place of that unit's result.
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

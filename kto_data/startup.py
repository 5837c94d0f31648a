"""What a command need not wait for: torch where nothing uses it, and the garbage collector, which finds hardly any."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

OBJECTS_OF_PYTHON = 1_000
"""More than the collector passes over from the start, as it does in Python 3.12, and less than any program has."""
_NEW_OBJECTS = 20_000  # more than those of most batches, and few megabytes


def import_on_first_use(name: str) -> None:
    """Let an `import` of the package `name` cost nothing until something of it is used. Where it is imported already,
    or not installed, nothing happens.

    transformers imports torch wherever it is installed, which takes longer than to load a tokenizer, which needs none.
    `importlib.util.LazyLoader` would be the way of the standard library, but what it makes is loaded by the second
    `import` of it.
    """
    spec = None if name in sys.modules else find_spec(name)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        module.__class__ = _NotYetImported
        sys.modules[name] = module


class _NotYetImported(ModuleType):
    """A module whose code is run when a name is taken from it that is not told by its place on disk."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__file__", "__loader__", "__name__", "__package__", "__spec__"):
            return super().__getattribute__(name)
        super().__setattr__("__class__", ModuleType)  # first, since the package's own modules import it
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)  # as it would be had it failed when it was imported
            raise
        return getattr(self, name)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Loading makes millions of objects and leaves them all alive: to look through them for garbage, again and again,
    takes a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not _is_frozen():
                gc.freeze()  # together, these two make all objects old,
                gc.unfreeze()  # so that the next collections, which are of young ones, pass them over
            gc.enable()


def collect_less_garbage() -> None:
    """Let the garbage collector, in this process and from now on, pass over all that is there, and come less often.

    Where rows are rendered and encoded in batches, thousands of lists and dicts live until the batch is done, and
    behind them lie the millions of objects that a model's libraries are made of: to look through all of these again and
    again takes about as long as the rows.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


def _is_frozen() -> bool:
    """Whether somebody has let the collector pass over what was there."""
    return gc.get_freeze_count() > OBJECTS_OF_PYTHON


@contextmanager
def less_garbage_collection() -> Iterator[None]:
    """Meanwhile it is as after `collect_less_garbage`, if nobody has frozen anything before."""
    if _is_frozen():
        yield
        return
    thresholds = gc.get_threshold()
    collect_less_garbage()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)

"""The engine that the user asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kto_data.choices import EngineName
from kto_data.engine import local
from kto_data.engine.contract import Opened
from kto_data.errors import UsageError, require_packages


@contextmanager
def open_engine(name: EngineName, *, jobs: int | None, address: str | None) -> Iterator[Opened]:
    """An engine with as many jobs as asked, or one a processor.

    Raises `UsageError` where it cannot be had, and `MissingExtraError` where its package is not installed.
    """
    if name == "local":
        if address is not None:
            raise UsageError("--ray-address is of use with --engine ray alone", hint="add --engine ray")
        yield Opened(local.run, jobs or local.default_jobs())
        return
    require_packages(["ray"], extra="ray", needed_for="--engine ray")
    from kto_data.engine import ray

    with ray.session(jobs=jobs or (local.default_jobs() if address is None else None), address=address) as opened:
        yield opened

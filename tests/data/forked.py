"""Runs of the command line in processes of their own, forked from one that has the libraries loaded: their import is
most of a short run, and no moment of interest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from kto_data.cli import main
from kto_data.engine import local
from kto_data.engine.contract import Work

_PRELOADED = ["kto_data.preprocess", "transformers.models.auto.processing_auto"]


def forking_server() -> ForkServerContext:
    """What starts processes that have the libraries loaded."""
    server = get_context("forkserver")
    server.set_forkserver_preload(_PRELOADED)
    return server


def started(arguments: list[str]) -> ForkServerProcess:
    """The command line at work, the leader of a group of its own; its workers are forked too."""
    process = forking_server().Process(target=_lead, args=(arguments,))
    process.start()
    return process


def _lead(arguments: list[str]) -> None:
    os.setsid()
    fork_workers()
    sys.exit(main(arguments))


def fork_workers() -> None:
    """From here on workers of this process are forked where they can be, and not spawned."""
    run = local.run

    def run_forked(work: Work[Any, Any], units: Iterable[Any], *, jobs: int) -> Iterator[Any]:
        return run(replace(work, may_fork=True), units, jobs=jobs)

    local.run = run_forked  # type: ignore[assignment]

"""Every family of tiny models: gone on with on two ranks, and beside stock TRL in each mix of options. `make families`

    python tests/train/families.py FOLDER

Each family and case is told in a line, as it is done. Ends with 1 where one of them is not as it should be; the others
are looked at all the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import conftest  # noqa: F401  (the environment of the tests: before transformers looks for torchvision)
import transformers
import two_processes
from accelerate.utils import gather_object
from mixes import MIXES, compare, make_caches, make_case
from test_loss_equality import TRAINED
from two_processes import RANK, prepare_to_go_on, start

Told = Iterator[tuple[str, bool]]
"""What was found, in a line, and whether it is as it should be: alike on all ranks."""


def gone_on_with(folder: Path) -> Told:
    for family, lora in product(TRAINED, (False, True)):
        wrong = ""
        try:
            two_processes.check_a_resumed_run_ends_where_an_unbroken_one_does(folder, family, lora=lora)
        except AssertionError as error:
            wrong = f"NOT AS UNBROKEN: {error}"
        wrong = next(filter(None, gather_object([wrong])), "")
        yield f"{family}, {'lora' if lora else 'full'}, resumed: {wrong or 'the same to the bit'}", not wrong


def mixed(folder: Path) -> Told:
    for family, mix in product(TRAINED, MIXES):
        if mix.processes == int(os.environ.get("WORLD_SIZE", "1")):
            outcome = compare(make_case(family, mix, folder), mix.reference)
            yield f"{family}, {mix.told(family)}: {outcome}", outcome.is_right


CHECKS: dict[str, Callable[[Path], Told]] = {"gone on with": gone_on_with, "mixed": mixed}
PARTS = (("mixed", 1), ("mixed", 2), ("gone on with", 2))
"""The checks, and on how many ranks."""


def check(name: str, folder: Path) -> int:
    """How many cases are not as they should be."""
    num_wrong = 0
    found = CHECKS[name](folder)
    with contextlib.redirect_stdout(sys.stderr):  # transformers prints what it logs
        for line, is_right in found:
            num_wrong += not is_right
            if RANK == 0:
                print(line, file=sys.__stdout__, flush=True)
    return num_wrong


def main(folder: Path) -> int:
    transformers.logging.disable_progress_bar()
    for family in TRAINED:
        prepare_to_go_on(folder, family)
        make_caches(family, folder)
    failed = 0
    for name, ranks in PARTS:
        done = start(__file__, str(folder), name, ranks=ranks, shown=True)
        if done.returncode:
            failed += 1
            print(done.stderr, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    given, *wanted = sys.argv[1:]
    raise SystemExit(main(Path(given)) if not wanted else 1 if check(wanted[0], Path(given)) else 0)

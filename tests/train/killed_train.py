"""`python -m kto_train`, killed as it opens a file whose path ends with the first argument."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any


def kill(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ending = sys.argv.pop(1)
    sys.addaudithook(kill)
    runpy.run_module("kto_train", run_name="__main__", alter_sys=True)

"""What is logged while a training works: other libraries' out of the way, this package's said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Libraries' warnings and progress bars out of the way; errors stay."""
    import warnings

    import datasets
    import transformers

    verbosity = transformers.utils.logging.get_verbosity()
    packing = logging.getLogger("bitsandbytes")  # says of each layer of each step that it casts what it is given
    level = packing.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        transformers.utils.logging.set_verbosity_error()
        packing.setLevel(logging.ERROR)
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
            packing.setLevel(level)
            transformers.utils.logging.enable_progress_bar()
            datasets.enable_progress_bars()


@contextmanager
def saying_messages(say: Say) -> Iterator[None]:
    """What this package logs, said as everything else is."""
    handler = _Saying(say)
    logger = logging.getLogger("kto_train")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Saying(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())

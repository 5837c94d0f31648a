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
    deepspeed = logging.getLogger("DeepSpeed")  # says on standard output, when it is imported, what device there is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        transformers.utils.logging.set_verbosity_error()
        packing.setLevel(logging.ERROR)
        deepspeed.addFilter(_is_error)  # a level would be set anew by the import
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
            packing.setLevel(level)
            deepspeed.removeFilter(_is_error)
            transformers.utils.logging.enable_progress_bar()
            datasets.enable_progress_bars()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


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

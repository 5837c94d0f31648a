"""What other libraries say while they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Libraries' warnings and progress bars out of the way; errors stay."""
    import warnings

    import datasets
    import transformers

    verbosity = transformers.utils.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
            transformers.utils.logging.enable_progress_bar()
            datasets.enable_progress_bars()

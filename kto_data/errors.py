"""What stops a command, and the exit code each cause has.

    KtoDataError                 what went wrong, where, and what to do next
    ├── UsageError               an option or a combination of options that cannot work
    ├── InputError               a file or folder that cannot be read or written
    ├── ConfigError              a configuration file with an unknown key or a wrong value
    ├── ModelError               a model folder that cannot do what is asked of it
    ├── CacheError               a cache that is not one, is stale, or belongs to another model
    ├── DivergedError            a training whose loss or gradient is no finite number any more
    └── MissingExtraError        an optional dependency that is not installed

Wrong *data* is never one of these: it is a `Finding`, which is a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from importlib.util import find_spec


class ExitCode(IntEnum):
    """The process exit codes; part of the public interface."""

    OK = 0
    FINDINGS = 1  # the run worked, and found something at or above the fail level
    USAGE = 2  # usage, configuration, or input and output
    BUG = 101  # an exception nobody foresaw
    INTERRUPTED = 130  # Ctrl-C or SIGTERM


class KtoDataError(Exception):
    """A reason to stop that the user can act on: shown as one line and a hint, never as a traceback."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class UsageError(KtoDataError):
    """An option, or a combination of options, that cannot work."""


class InputError(KtoDataError):
    """A file or folder that is missing, unreadable, not of the kind expected, or that cannot be written."""


class ConfigError(KtoDataError):
    """A configuration file that cannot be read, with an unknown key or a value out of range."""


class ModelError(KtoDataError):
    """A model folder that cannot do what is asked of it."""


class CacheError(KtoDataError):
    """A folder that is no cache, or a cache made from something else than what is asked for now."""


class DivergedError(KtoDataError):
    """A training whose loss or gradient is no finite number any more."""


class MissingExtraError(KtoDataError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed",
            hint=f"pip install 'ktodata[{extra}]'",
        )


def require_packages(packages: Iterable[str], *, extra: str, needed_for: str) -> None:
    """Raises `MissingExtraError` for the first of `packages` that is not installed; imports none of them."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra=extra, needed_for=needed_for)


def first_line(error: BaseException) -> str:
    """What an error says, without the paragraphs of advice behind it; its type where it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]

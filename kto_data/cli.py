"""The `ktodata` program: commands, exit codes, and what becomes of an exception.

Commands of other packages join through the entry-point group `ktodata.commands`; each entry is a function that takes
the Typer app and adds its commands to it.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any, NoReturn, cast

import typer

from kto_data import __version__
from kto_data.errors import ExitCode, KtoDataError
from kto_data.safe_text import printable

COMMANDS = ("validate", "convert", "stats", "preprocess", "inspect", "rule", "schema", "init")
"""The commands of this package, each of which is registered by the module of its name."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def build_app(*, command: str | None = None) -> typer.Typer:
    """The app with every command that is installed; where one of our own is named, with that one alone, which saves
    the time that it takes to make the others ready."""
    app = typer.Typer(
        name="ktodata",
        help="KTO data, text or text with images, from a JSONL file to a trained model: what validates, trains.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
        ] = False,
    ) -> None:
        pass

    if command in COMMANDS:
        import_module(f"kto_data.commands.{command}").register(app)
        return app
    for name in COMMANDS:
        import_module(f"kto_data.commands.{name}").register(app)
    for entry in sorted(entry_points(group="ktodata.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    return app


def _first_word(argv: list[str] | None) -> str | None:
    """The first word of the command line, where that is what is to be run: of a completion it is not."""
    words = sys.argv[1:] if argv is None else argv
    return words[0] if words and "_KTODATA_COMPLETE" not in os.environ else None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ktodata {__version__}")
        raise typer.Exit


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit code (see `ExitCode`)."""
    # Before anything is imported that would send it. HF_HUB_OFFLINE is the user's and is left as it is.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        result = build_app(command=_first_word(argv))(args=argv, standalone_mode=False)
        code = int(result) if isinstance(result, int) else ExitCode.OK
        if code == ExitCode.INTERRUPTED:  # typer makes an exit code of Ctrl-C, without a word
            _say("interrupted")
        sys.stdout.flush()  # here, where an error has an exit code
        return code
    except (typer.Abort, KeyboardInterrupt):
        _say("interrupted")
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        # What typer raises for wrong usage shows itself, with the usage line of the command it belongs to.
        cast(Any, error).show(file=sys.stderr)
        return ExitCode.USAGE
    except KtoDataError as error:
        _say(f"error: {error.what}")
        if error.hint:
            _say(f"  try: {error.hint}")
        return ExitCode.USAGE
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader of our output has gone (`| head`), which typer makes an exit code of: not an error, and nothing
        # more can be said to it.
        _leave_stdout()
        return ExitCode.OK
    except Exception as error:  # the last resort: a bug is shown whole, and never taken for a finding
        if isinstance(error, OSError) and error.errno in _FULL:  # files name themselves: this is standard output
            _say(f"error: cannot write the output: {error.strerror}")
            _say("  try: free some space, or write to another place")
            _leave_stdout()
            return ExitCode.USAGE
        traceback.print_exc()
        _say(f"error: this is a bug in ktodata {__version__}; please report it with the lines above")
        return ExitCode.BUG


def _leave_stdout() -> None:
    """Let what is still to be written go nowhere, so that leaving the program is no second error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _say(text: str) -> None:
    print(f"ktodata: {printable(text)}", file=sys.stderr)


def _prepare_streams() -> None:
    """Make the standard streams such that all can be read and written that commands do with them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us: the next file opened would take its number
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: SIM115 - to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Whatever the locale: a file or a pipe gets UTF-8, as JSON must be, and a terminal escapes for what it lacks.
        is_terminal = sys.stdout.isatty()
        sys.stdout.reconfigure(encoding=None if is_terminal else "utf-8", errors="backslashreplace")


def leave(code: int) -> NoReturn:
    """End the process with an exit code, without taking Python down: to free a million objects one by one takes longer
    than small data. mypy leaves so too.

    What was left to be done at the end is done first. Where a thread is to be waited for, or a profiler wants to tell
    what it has seen, Python is taken down.
    """
    gc.freeze()  # it need not be looked which of them nobody uses any more
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if sys.getprofile() is not None or not all(thread.daemon for thread in others):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed: what was said was written before
            stream.flush()
    os._exit(code)


def run() -> None:
    """The console script."""
    _prepare_streams()
    leave(main())

"""How far a long command is, on standard error: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_FRAMES = 0.2


class Progress:
    """Rows read and dropped so far, rows a second, shards, and the time that is left.

    From the first `advance_to` on a thread says it again where nothing is new for long: a shard may take minutes.
    Worker processes are to be forked before, since a lock that the thread holds would stay locked in them.
    """

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self._title = title
        self._stage = ""
        self._enabled = enabled
        self._started = self._last_line = self._last_told = time.monotonic()
        self._numbers = _Numbers()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._teller: threading.Thread | None = None
        self._bar: Bar | None = None
        if enabled and sys.stderr.isatty():
            # Loaded where there is a terminal to draw on, and not otherwise.
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn(f"{title} {{task.fields[state]}}"),
                BarColumn(bar_width=20),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(title, total=None, state="")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._teller is not None:
            self._teller.join(timeout=1)  # it may be in the middle of a line that nobody takes
        if self._bar is not None:
            self._bar.stop()

    def of_rows(self, num_read: int, share: float | None, num_lost: int) -> None:
        """What `advance_to` says, where rows are read and none is made into anything."""
        self.advance_to(num_read, share=share, num_lost=num_lost)

    def advance_to(
        self,
        num_read: int,
        num_dropped: int = 0,
        share: float | None = None,
        num_shards: int = 0,
        num_lost: int = 0,
        stage: str = "",
    ) -> None:
        """Say that `num_read` rows are read, `num_dropped` of them dropped, and that this is about `share` of all, 0 to
        1, None where nobody knows; that work is done on `num_shards`, and that it has failed for `num_lost` of them.

        Where the rows are read more than once, `stage` says what for; its clock starts as the one before it ends.
        """
        if not self._enabled:
            return
        with self._lock:
            now = time.monotonic()
            if stage != self._stage:
                self._stage, self._started = stage, self._last_told
            self._last_told = now
            self._numbers = _Numbers(num_read, num_dropped, share, num_shards, num_lost)
        if self._bar is not None:
            self._bar.start()  # which has a thread of its own
            self._bar.update(self._task, state=self._state(), total=None if share is None else 1, completed=share or 0)
            return
        self._say_if_due()
        if self._teller is None:
            self._teller = threading.Thread(target=self._go_on_saying, daemon=True)
            self._teller.start()

    def _go_on_saying(self) -> None:
        while not self._is_over.wait(_SECONDS_BETWEEN_LINES / 10):
            try:
                self._say_if_due()
            except (OSError, ValueError):  # whoever listened has gone, which whoever works here will find out
                return

    def _say_if_due(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._last_line = now
                print(f"{self._title}: {self._state()}", file=sys.stderr, flush=True)

    def _state(self) -> str:
        passed = max(time.monotonic() - self._started, 1e-9)
        numbers = self._numbers
        state = f"{self._stage} · " if self._stage else ""
        state += f"{numbers.read:,} rows · {numbers.read / passed:,.0f} rows/s"
        if numbers.dropped:
            state += f" · {numbers.dropped:,} dropped"
        if numbers.shards:
            state += f" · {numbers.shards:,} shards"
        if numbers.lost:
            state += f" · {numbers.lost:,} failed"
        if numbers.share:
            state += f" · {_duration(passed * (1 - numbers.share) / numbers.share)} left"
        return state


class _Numbers(NamedTuple):
    """What was said last."""

    read: int = 0
    dropped: int = 0
    share: float | None = None
    shards: int = 0
    lost: int = 0


class StepBar:
    """The steps of a training: a bar on a terminal, with every line that is said above it. Where there is no terminal
    nothing is drawn, and lines go to `say`."""

    def __init__(self, say: Callable[[str], None], *, enabled: bool = True) -> None:
        self._say = say
        self.is_shown = enabled and sys.stderr.isatty()
        self._bar: Bar | None = None
        self._last_frame = 0.0

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, step: int, total: int, **words: str) -> None:
        """`step` of `total` steps are done. Of `words`, `state` is put beside the bar and `left` before it; what is
        not given stays."""
        if not self.is_shown:
            return
        if self._bar is None:
            self._bar = _step_bar()
            self._task = self._bar.add_task("", total=total, state="", left="")
            self._bar.start()
        self._bar.update(self._task, completed=step, total=total, **words)  # type: ignore[arg-type]  # fields
        if time.monotonic() - self._last_frame > _SECONDS_BETWEEN_FRAMES or step == total:
            self._last_frame = time.monotonic()
            self._bar.refresh()

    def say(self, line: str) -> None:
        """One line, above the bar where there is one."""
        if self._bar is None:
            self._say(line)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is; lines come below it from now on."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
        self._bar, self.is_shown = None, False


def _step_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    # No thread of its own draws it: loaders fork their workers, and a thread's lock would stay locked in them.
    return Bar(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[state]}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
    )


def _duration(seconds: float) -> str:
    """A length of time in a person's words, to about a tenth of it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

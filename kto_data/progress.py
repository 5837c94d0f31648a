"""How far a long command is, on standard error: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Rows read and dropped so far, and rows a second."""

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self._title = title
        self._enabled = enabled
        self._started = self._last_line = time.monotonic()
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
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance_to(self, num_read: int, num_dropped: int = 0) -> None:
        """Say that `num_read` rows are read, `num_dropped` of them dropped."""
        if not self._enabled:
            return
        now = time.monotonic()
        state = f"{num_read:,} rows · {num_read / max(now - self._started, 1e-9):,.0f} rows/s"
        if num_dropped:
            state += f" · {num_dropped:,} dropped"
        if self._bar is not None:
            self._bar.update(self._task, state=state)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self._title}: {state}", file=sys.stderr, flush=True)

"""How a cache came to be: what differs from run to run, and so is no part of its manifest."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from datetime import UTC, datetime

from kto_data import __version__
from kto_data.unit import Built


class RunRecord:
    """One run of preprocessing, as `run.json` in the cache tells of it. Its clock starts when it is made."""

    def __init__(self, *, jobs: int) -> None:
        self._jobs = jobs
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._ids_by: set[str] = set()
        self.num_rows = 0
        self.num_units = 0
        """Pieces of work."""
        self.num_reused = 0
        """Of them, those whose result an earlier run had left."""

    def add(self, built: Built, num_rows: int) -> None:
        """Take in what became of one more unit, of which `num_rows` rows were read."""
        self.num_rows += num_rows
        self.num_units += 1
        self.num_reused += built.is_reused
        if built.ids_by:
            self._ids_by.add(built.ids_by)

    def to_json(self) -> bytes:
        """The run up to now."""
        record = {
            "ktodata": __version__,
            "command": sys.argv,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 1),
            "rows": self.num_rows,
            "units": self.num_units,
            "units_reused": self.num_reused,
            "ids_by": sorted(self._ids_by),
            "jobs": self._jobs,
            "host": platform.node(),
            "processors": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
        return json.dumps(record, indent=2).encode() + b"\n"

from __future__ import annotations

from pathlib import Path

import pytest
import two_processes

pytestmark = pytest.mark.slow


def test_two_ranks_train_as_stock_trl_does_stop_together_and_are_gone_on_with(tmp_path: Path) -> None:
    two_processes.prepare(tmp_path)
    done = two_processes.start(two_processes.__file__, str(tmp_path))
    assert done.returncode == 0, done.stderr

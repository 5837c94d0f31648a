from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import two_processes

pytestmark = pytest.mark.slow


def test_two_ranks_train_as_stock_trl_does_stop_together_and_are_gone_on_with(tmp_path: Path) -> None:
    two_processes.prepare(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = two_processes.__file__
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*launcher, script, str(tmp_path)], capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stderr

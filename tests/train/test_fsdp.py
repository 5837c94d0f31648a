from __future__ import annotations

from pathlib import Path

import pytest
import sharded
from two_processes import start

pytestmark = pytest.mark.slow


def test_two_ranks_that_share_the_weights_train_as_two_that_have_them_all(tmp_path: Path) -> None:
    """Each with the gradients of both: of the language head too, which TRL reads where accelerate has it in pieces."""
    sharded.prepare(tmp_path)
    done = start(sharded.__file__, str(tmp_path))
    assert done.returncode == 0, done.stderr

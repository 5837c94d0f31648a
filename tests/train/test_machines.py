"""One training on two machines: two launchers on this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from caches import make_cache, text_records
from conftest import TinyModel
from test_kills import assert_same_run
from test_launch import command

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_train.launch import _free_port

pytestmark = pytest.mark.slow

SETTINGS = ("--max-steps", "3", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def text_cache(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("machines"), tiny_model("text"), text_records(16))


def started(*arguments: str, rank: int, port: int) -> subprocess.Popen[str]:
    """`ktodata` as it is called on one of two machines."""
    where = ("--num-machines", "2", "--machine-rank", str(rank), "--main-process-ip", "127.0.0.1")
    return subprocess.Popen(
        [sys.executable, "-m", "kto_data", *arguments, *where, "--main-process-port", str(port)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
    )


def said_and_code(process: subprocess.Popen[str]) -> tuple[str, int]:
    return process.communicate(timeout=600)[1], process.returncode


def test_two_machines_train_as_two_processes_of_one(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    """They share no folder here: what a run leaves is with the first, but for each one's own random states."""
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    made = {folder: command(text_cache, tiny_model("text"), folder, *SETTINGS) for folder in (whole, first, second)}
    assert main(made[whole]) == ExitCode.OK
    port = _free_port()
    machines = [started(*made[folder], rank=rank, port=port) for rank, folder in enumerate((first, second))]
    (told, code), (told_by_second, code_of_second) = map(said_and_code, machines)
    assert (code, code_of_second) == (ExitCode.OK, ExitCode.OK), told + told_by_second
    assert_same_run(first, whole)
    assert "step 3/3: loss " in told
    meeting = f"they meet at 127.0.0.1:{port}, and wait for each other 1,800 s (kto.ddp_timeout)"
    assert told_by_second == f"machine 1 of 2: {meeting}\n"
    left = sorted(str(path.relative_to(second)) for path in second.rglob("*") if path.is_file())
    assert left == ["checkpoint-3/rng_state_1.pth", "checkpoint-3/window_1.json"]


def test_a_machine_that_nobody_joins_waits_for_as_long_as_it_is_told(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    arguments = command(text_cache, tiny_model("text"), tmp_path / "run", "--set=kto.ddp_timeout=2")
    said, code = said_and_code(started(*arguments, rank=0, port=_free_port()))
    assert code == ExitCode.USAGE
    assert "and wait for each other 2 s (kto.ddp_timeout)" in said
    assert said.count("error: the processes of the training do not find each other: ") == 1
    assert "try: --main-process-ip and --main-process-port, the same on each machine" in said
    assert "Traceback" not in said

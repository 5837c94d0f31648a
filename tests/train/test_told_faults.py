"""What a machine lacks, and what libraries say of it; in real trainings: test_limits.py, test_lost_rank.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch.distributed

from kto_data.errors import ConfigError, KtoDataError
from kto_train.faults import told_faults


def told(error: Exception) -> KtoDataError:
    with pytest.raises(KtoDataError) as raised, told_faults(Path("run")):
        raise error
    assert "\n" not in raised.value.what
    return raised.value


KILLED = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that … are out of shared memory."
NO_ROOM = "RuntimeError: unable to write to file </torch_1_2_3>: No space left on device (28)"
BY_WORKER = f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  File a\n{NO_ROOM}\n"


@pytest.mark.parametrize(("said", "what"), [(KILLED, KILLED), (BY_WORKER, NO_ROOM)])
def test_workers_that_are_short_of_shared_memory_are_one_line(said: str, what: str) -> None:
    error = told(RuntimeError(said))
    assert error.what == f"a process that loads data was lost: {what}"
    assert "/dev/shm" in error.hint


@pytest.mark.parametrize(
    ("number", "what", "hint"),
    [
        (errno.ENOSPC, "cannot write to a/b: No space left on device", "free some space there, then --resume auto"),
        (errno.EROFS, "cannot write to a/b: Read-only file system", "another --output"),
        (errno.EACCES, "a/b: Permission denied", "let this user read and write there, or name another place"),
        (errno.EMFILE, "a/b: Too many open files", "a higher `ulimit -n`, or fewer kto.dataloader_num_workers"),
        (errno.ESTALE, "a/b: Stale file handle", "look at the disk or the network it is on, then --resume auto"),
        (errno.ENOENT, "a/b: No such file or directory", ""),
    ],
)
def test_only_a_full_disk_asks_for_space(number: int, what: str, hint: str) -> None:
    error = told(OSError(number, os.strerror(number), "a/b"))
    assert (error.what, error.hint) == (what, hint)


def test_processes_that_never_met_have_not_lost_each_other() -> None:
    error = told(torch.distributed.DistNetworkError("The server socket has failed to listen on port 29500"))
    assert isinstance(error, ConfigError)
    assert "--main-process-port" in error.hint


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), told_faults(Path("run")):
        raise RuntimeError("shapes do not fit")


def test_what_devices_say_of_shared_memory_is_no_matter_of_data_workers() -> None:
    said = "NCCL error: unhandled system error. Error while creating shared memory segment /dev/shm/nccl-a (size 9)"
    assert "data" not in told(torch.distributed.DistBackendError(said)).what
    with pytest.raises(RuntimeError, match="out of resource"), told_faults(Path("run")):
        raise RuntimeError("out of resource: shared memory, Required: 9, Hardware limit: 8")

"""What a machine lacks while a training runs, as one line: room on the disk, memory, a file that was there before."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from safetensors import SafetensorError

from kto_data.errors import ConfigError, InputError, KtoDataError, first_line
from kto_train.peers import LostPeerError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_WRITE = (*_FULL, errno.EROFS)
_NO_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory", "can't start new thread")
"""What torch and Python say in a RuntimeError where there is none; only a full device has an exception of its own."""
_NO_WORKER = (
    *("DataLoader worker (pid", "Pin memory thread exited", "Communication with the workers is no longer possible"),
    *("shared memory object", "shared memory (shm)", "</torch_"),  # in whose name torch asks for a place in it
)
"""What torch says where a process that loads batches was killed, or cannot hand on what it has loaded."""
_NO_PEER = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
"""What a collective says, on processors, whose other side has gone; on devices it has an exception of its own."""
_AFTER_FULL = "free some space there, then --resume auto"
_HINTS = {
    **dict.fromkeys(_FULL, _AFTER_FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user read and write there, or name another place"),
    errno.EROFS: "another --output",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "a higher `ulimit -n`, or fewer kto.dataloader_num_workers"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "look at the disk or the network it is on, then --resume auto"),
}


@contextmanager
def told_memory() -> Iterator[None]:
    """Makes one line of a machine whose memory has ended. Raises `ConfigError`."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise _out_of_memory(error) from None
        raise


@contextmanager
def told_peers() -> Iterator[None]:
    """Makes one line of processes that never met, or of which one was lost. Raises `ConfigError`, `LostPeerError`."""
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_reach(error):
            raise _out_of_reach(error) from None
        raise


@contextmanager
def told_faults(output: Path) -> Iterator[None]:
    """Makes one line of a full disk, a full device, a package that a setting needs, a process or a data worker that
    was lost, and of what a data worker found wrong.

    `output` is where the training writes. Raises `InputError`, `ConfigError`, `LostPeerError`, or what the worker
    raised.
    """
    try:
        with told_memory(), told_peers():
            yield
    except SafetensorError as error:
        raise InputError(f"cannot write to {output}: {first_line(error)}", hint=_AFTER_FULL) from None
    except OSError as error:
        where = error.filename or output
        what = f"cannot write to {where}" if error.errno in _CANNOT_WRITE else str(where)
        raise InputError(f"{what}: {first_line(error)}", hint=_HINTS.get(error.errno or 0, "")) from None
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_WORKER):
            raise _no_worker(error) from None
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise InputError(f"cannot write to {output}: the disk is full", hint=_AFTER_FULL) from None
    except ImportError as error:  # of an optimizer or a kernel that a setting asks for
        raise ConfigError(f"a setting under kto needs another package: {first_line(error)}") from None
    except KtoDataError as error:
        raise _from_worker(error) from None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in _NO_MEMORY) and not _is_out_of_reach(error)


def _is_out_of_reach(error: BaseException) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _NO_PEER)


def _out_of_memory(error: BaseException) -> ConfigError:
    return ConfigError(
        f"out of memory: {first_line(error)}",
        hint="a smaller kto.per_device_train_batch_size, reference: cached, or lora: {r: 16}",
    )


def _no_worker(error: RuntimeError) -> ConfigError:
    told = str(error).partition("Original Traceback")[2].strip().splitlines()[-1:] or [first_line(error)]
    return ConfigError(
        f"a process that loads data was lost: {told[0].strip()}",
        hint="kto.dataloader_num_workers: 0, or fewer, which need less memory and less of /dev/shm; then --resume auto",
    )


def _out_of_reach(error: RuntimeError) -> KtoDataError:
    told = " ".join(str(error).split())  # the cause may be in any of its lines
    if torch.distributed.is_initialized():
        return LostPeerError(
            f"the processes of the training cannot go on together: {told}", hint="look at what the others said"
        )
    return ConfigError(
        f"the processes of the training do not find each other: {told}",
        hint="--main-process-ip and --main-process-port, the same on each machine, and a port that is free",
    )


def _from_worker(error: KtoDataError) -> KtoDataError:
    """The error itself: torch hands on what a data worker raises with the worker's traceback as its text."""
    name = f"{type(error).__name__}: "
    if "Original Traceback" not in error.what:
        return error
    error.what = error.what.rpartition(name)[2].strip()
    return error

"""One training over several processes: each a `python -m kto_train` with the variables that `torchrun` sets.

`torchrun` and `accelerate launch` start `kto_train` as well. What is here is for the plain command: it ends with the
exit code of the process that failed by itself, and a run that is asked to stop has the time that its checkpoint takes.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kto_data.errors import ConfigError, ExitCode
from kto_train.config import to_yaml
from kto_train.peers import LOST_PEER

_LOOK_EVERY = 0.2  # seconds between two looks at the processes
_GRACE = 30.0  # seconds that the others have once one has failed: a rank waits for a lost one in the middle of a step
_GRACE_TO_SAVE = 1800.0  # the same once one has stopped because it was asked to: the first one may still be saving
_PORTS = range(20_000, 32_000)  # below those that systems hand out
_MEET_SECONDS = 1800  # what `kto.ddp_timeout` is where it is not set
_TOLD_LINES = 20  # of what a failed process said, where it was not the one that speaks

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """How many processes there are and where: the names are those of `accelerate launch`."""

    num_processes: int  # on all machines together
    num_machines: int = 1
    machine_rank: int = 0
    main_process_ip: str = "127.0.0.1"
    main_process_port: int | None = None  # None: a free one, which only a single machine can choose

    def __post_init__(self) -> None:
        if self.num_processes % self.num_machines:
            raise ConfigError(
                f"{self.num_processes} processes cannot be spread evenly over {self.num_machines} machines",
                hint="--num-processes counts the processes of all machines together",
            )
        if not 0 <= self.machine_rank < self.num_machines:
            raise ConfigError(f"--machine-rank {self.machine_rank}: must be 0 to {self.num_machines - 1}")
        if self.num_machines > 1 and self.main_process_port is None:
            raise ConfigError(
                "several machines need to agree on a port", hint="--main-process-port 29500, the same on each machine"
            )

    def told(self, settings: Mapping[str, Any]) -> str:
        """Where the machines meet, and for how long one waits there."""
        seconds = (settings.get("kto") or {}).get("ddp_timeout", _MEET_SECONDS)
        return (
            f"machine {self.machine_rank} of {self.num_machines}: they meet at "
            f"{self.main_process_ip}:{self.main_process_port}, and wait for each other {seconds:,} s (kto.ddp_timeout)"
        )

    def environments(self) -> Iterator[dict[str, str]]:
        """The variables of each process of this machine, by which torch finds the others."""
        here = self.num_processes // self.num_machines
        port = self.main_process_port or _free_port()
        for local in range(here):
            yield {
                "MASTER_ADDR": self.main_process_ip,
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(self.num_processes),
                "RANK": str(self.machine_rank * here + local),
                "LOCAL_WORLD_SIZE": str(here),
                "LOCAL_RANK": str(local),
                # As torchrun: the processes would fight for the processors otherwise.
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // here))),
            }


def machines_for(
    num_processes: int | None,
    num_machines: int,
    machine_rank: int,
    main_process_ip: str | None,
    main_process_port: int | None,
    *,
    needs_launcher: bool,
) -> Machines | None:
    """Where a run is to be, with a process a device unless told otherwise; None where this process is enough, or is one
    of several already. `needs_launcher` says that even a run of one process must find the variables of `torchrun`.

    Raises `ConfigError` for machines that cannot be.
    """
    if is_launched():
        return None
    if num_processes is None:
        num_processes = max(1, _num_devices()) * num_machines
    if num_processes == 1 and not needs_launcher:
        return None
    if num_machines > 1 and main_process_ip is None:
        raise ConfigError("several machines need to know the first one", hint="--main-process-ip, the same on each")
    return Machines(
        num_processes=num_processes,
        num_machines=num_machines,
        machine_rank=machine_rank,
        main_process_ip=main_process_ip or "127.0.0.1",
        main_process_port=main_process_port,
    )


def _num_devices() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 1


def is_launched() -> bool:
    """Whether this process is one of several already, started here or by torchrun, accelerate or deepspeed."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launch(settings: Mapping[str, Any], machines: Machines, *, dry_run: bool, say: Say) -> int:
    """Run the training in all processes of this machine and return the exit code.

    The first process speaks; of another one that failed, the last lines are told. Ctrl-C and SIGTERM are handed on:
    the processes agree on the step after which they save and stop. A second signal ends them at once.
    """
    if machines.num_machines > 1:
        say(machines.told(settings))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "train.yaml"
        config.write_text(to_yaml(settings), encoding="utf-8")
        command = [sys.executable, "-m", "kto_train", "--config", str(config), *(["--dry-run"] if dry_run else [])]
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, processes, signal.SIGKILL)  # nobody is left behind, whatever happens here
        stack.enter_context(_handing_on(processes))
        said_of_peers = [folder / f"{rank}.peer" for rank in range(machines.num_processes // machines.num_machines)]
        for rank, variables in enumerate(machines.environments()):
            speaks = rank == 0
            log = None if speaks else stack.enter_context((folder / f"{rank}.log").open("wb"))
            processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **variables, LOST_PEER: str(said_of_peers[rank])},
                    stdout=log,
                    stderr=subprocess.STDOUT if log else None,
                    start_new_session=True,  # a terminal's Ctrl-C reaches the launcher alone, which hands it on
                )
            )
        failed = _wait(processes, lambda rank: said_of_peers[rank].exists())
        return ExitCode.OK if failed is None else _told_end(failed, processes, folder, said_of_peers, say)


def _told_end(
    failed: int, processes: list[subprocess.Popen[bytes]], folder: Path, said_of_peers: list[Path], say: Say
) -> int:
    """The exit code of a run whose process `failed`, once it is said how that ended."""
    code = processes[failed].returncode
    if said_of_peers[failed].exists():  # the one that failed by itself is on another machine
        say(f"ktodata: error: {said_of_peers[failed].read_text(encoding='utf-8')}")
        return code
    is_said = code == processes[0].returncode and code >= 0 and not said_of_peers[0].exists()
    if failed and code != ExitCode.INTERRUPTED and not is_said:
        for line in (folder / f"{failed}.log").read_text(errors="replace").splitlines()[-_TOLD_LINES:]:
            say(line)
    if code < 0:
        say(f"ktodata: error: process {failed} was ended by {_signal_name(-code)}")
        return ExitCode.USAGE
    return code


def _signal_name(number: int) -> str:
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


def _wait(processes: list[subprocess.Popen[bytes]], has_lost_peer: Callable[[int], bool]) -> int | None:
    """Wait for all to end; returns the first that failed by itself, or else the first that failed.

    Those that are ended here, because another one has failed, do not count.
    """
    failed: int | None = None
    deadline = float("inf")
    while True:
        is_over = None not in [process.poll() for process in processes]  # each is asked: only then its end is known
        if failed is None or has_lost_peer(failed):
            is_first = failed is None
            failed = _first_failed(processes, has_lost_peer)
            if is_first and failed is not None:
                was_asked = processes[failed].returncode == ExitCode.INTERRUPTED
                deadline = time.monotonic() + (_GRACE_TO_SAVE if was_asked else _GRACE)
        if is_over:
            return failed
        if time.monotonic() > deadline:
            _end(processes, signal.SIGKILL)
            for process in processes:
                process.wait()
            return failed
        time.sleep(_LOOK_EVERY)


def _first_failed(processes: list[subprocess.Popen[bytes]], has_lost_peer: Callable[[int], bool]) -> int | None:
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    return min(failed, key=lambda rank: (has_lost_peer(rank), rank), default=None)


def _end(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def _handing_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hands Ctrl-C and SIGTERM on to the processes."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        _end(processes, signal.Signals(number))

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    """A port that is free, and none of those that the system hands out: until a process has loaded what it needs and
    takes it, another program could be given it."""
    for port in random.SystemRandom().sample(_PORTS, k=len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise ConfigError("no port is free for the processes to find each other", hint="--main-process-port")

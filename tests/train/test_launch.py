from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from caches import make_cache, text_records
from conftest import TinyModel

from kto_data.cli import main
from kto_data.errors import ConfigError, ExitCode
from kto_train import launch
from kto_train.launch import Machines, machines_for


@pytest.fixture(scope="module")
def text_cache(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("launch"), tiny_model("text"), text_records(16))


def command(cache: Path, model: Path, output: Path, *options: str) -> list[str]:
    return [
        *("train", "--cache", str(cache), "--model", str(model), "--output", str(output), "--batch-size", "2"),
        *("--num-processes", "2", *options),
    ]


def last_step(output: Path) -> int:
    checkpoints = [path for path in output.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return max(int(path.name.rpartition("-")[2]) for path in checkpoints)


def test_each_process_is_told_its_place() -> None:
    machines = Machines(num_processes=4, num_machines=2, machine_rank=1, main_process_ip="h", main_process_port=29500)
    assert [(v["RANK"], v["LOCAL_RANK"], v["WORLD_SIZE"], v["LOCAL_WORLD_SIZE"]) for v in machines.environments()] == [
        ("2", "0", "4", "2"),
        ("3", "1", "4", "2"),
    ]
    assert {(v["MASTER_ADDR"], v["MASTER_PORT"]) for v in machines.environments()} == {("h", "29500")}


def test_a_port_is_chosen_that_is_free_and_that_the_system_gives_to_nobody() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with socket.socket() as taken:
        port = launch._free_port()
        taken.bind(("", port))
        ports = {launch._free_port() for _ in range(50)}
    assert port not in ports
    assert len(ports) > 1
    assert max(ports) < lowest


@pytest.mark.parametrize(
    ("machines", "told"),
    [
        ((3, 2, 0, "h", 1), "3 processes cannot be spread evenly over 2 machines"),
        ((4, 2, 2, "h", 1), "--machine-rank 2: must be 0 to 1"),
        ((4, 2, 0, "h", None), "several machines need to agree on a port"),
        ((4, 2, 0, None, 1), "several machines need to know the first one"),
    ],
)
def test_machines_that_cannot_be_are_refused(machines: tuple[int, int, int, str | None, int | None], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        machines_for(*machines, needs_launcher=False)
    assert raised.value.what == told


def test_one_process_needs_no_launcher_and_a_launched_one_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machines_for(1, 1, 0, None, None, needs_launcher=False) is None
    assert machines_for(1, 1, 0, None, None, needs_launcher=True) is not None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert machines_for(2, 1, 0, None, None, needs_launcher=False) is None


def test_a_rank_that_fails_ends_the_others_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE", 0.5)
    waits = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    fails = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    assert launch._wait([waits, fails], lambda rank: False) == 1
    assert (waits.returncode, fails.returncode) == (-signal.SIGKILL, 2)


@pytest.mark.parametrize("lost", [{0}, {0, 1}])
def test_a_rank_that_only_lost_another_one_is_not_the_one_that_failed(
    lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_GRACE", 3.0)
    code = "import time; time.sleep({}); raise SystemExit(2)"
    processes = [subprocess.Popen([sys.executable, "-c", code.format(seconds)]) for seconds in (0, 1, 600)]
    assert launch._wait(processes, lambda rank: rank in lost) == (1 if lost == {0} else 0)
    assert processes[2].returncode == -signal.SIGKILL


def test_a_rank_that_is_killed_is_named_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has trained anything, which is soon enough: the launcher knows nothing of trainings."""
    monkeypatch.setattr(launch, "_GRACE", 0.5)
    killer = threading.Thread(target=kill_second_rank, daemon=True)
    killer.start()
    said: list[str] = []
    settings = {"model": "m", "cache": str(tmp_path / "c"), "output_dir": str(tmp_path / "run")}
    code = launch.launch(settings, Machines(num_processes=2), dry_run=True, say=said.append)
    killer.join(timeout=60)
    assert (code, said) == (ExitCode.USAGE, ["ktodata: error: process 1 was ended by SIGKILL"])


def kill_second_rank() -> None:
    """As soon as this process has a child that is one."""
    while True:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # a child that ends meanwhile, or one that others may not look into
                if child.environ().get("RANK") == "1":
                    child.kill()
                    return


def test_two_processes_train_one_model_and_one_speaks(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = command(text_cache, tiny_model("text"), tmp_path / "run", "--max-steps", "2")
    assert main(arguments) == ExitCode.OK
    said = capfd.readouterr().err
    assert said.count("steps      2, of 2 groups each") == 1
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["matters"]["devices"] == 2


def test_what_is_wrong_with_a_config_is_said_once(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = command(text_cache, tiny_model("text"), tmp_path / "run", "--set", "kto.eval_strategy=steps")
    assert main(arguments) == ExitCode.USAGE
    assert capfd.readouterr().err.count("error: kto.eval_strategy asks") == 1


def test_a_signal_to_the_launcher_ends_all_with_a_checkpoint(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    arguments = command(text_cache, tiny_model("text"), output, "--epochs", "1000", "--set", "reference=live")
    with subprocess.Popen(
        [sys.executable, "-m", "kto_data", *arguments], stderr=subprocess.PIPE, env={**os.environ}, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("step "):
                process.send_signal(signal.SIGTERM)
                break
        said += process.stderr.readlines()
        assert process.wait() == ExitCode.INTERRUPTED, "".join(said)
    assert last_step(output) >= 1
    assert json.loads((output / "run.json").read_text())["status"] == "interrupted"
    assert any("--resume auto" in line for line in said)

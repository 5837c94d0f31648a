"""Places at URLs of other kinds than object storage: what `kto_data.storage` makes of fsspec's implementations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options

from kto_data import scratch, storage
from kto_data.cli import main
from kto_data.errors import ExitCode, UsageError
from kto_data.scratch import ScratchFolder


class ServerFileSystem(MemoryFileSystem):
    """Files of a server, which the URL names and the names of files do not: as FTP and SFTP have it."""

    protocol = "server"
    store: dict[str, Any] = {}  # noqa: RUF012  (fsspec's own way)
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        if host == "down":
            raise EOFError("nobody there")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        host = infer_storage_options(path).get("host")
        return {"host": host} if host else {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(infer_storage_options(path)["path"]).strip("/")


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server."""
    fsspec.register_implementation("server", ServerFileSystem, clobber=True)
    ServerFileSystem.store.clear()
    yield "server://here"
    ServerFileSystem.store.clear()


@pytest.mark.parametrize("folder", ["data", "data/", "data/*.jsonl"])
def test_files_of_a_server_are_listed_by_urls_that_can_be_read(server: str, folder: str) -> None:
    storage.put(f"{server}/data/a.jsonl", b"{}")
    (found,) = storage.list_files(f"{server}/{folder}")
    assert (found, storage.read_bytes(found)) == (f"{server}/data/a.jsonl", b"{}")


def test_a_url_that_says_too_little_is_told_what_to_set(server: str) -> None:
    with pytest.raises(UsageError, match=r"server:// cannot be used: .*host") as raised:
        storage.open_storage("server:///data/a.jsonl")
    assert "FSSPEC_SERVER_" in raised.value.hint


def test_a_server_that_is_not_there_is_an_error_of_the_place(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="nobody there"):
        storage.read_bytes("server://down/a.jsonl")
    assert main(["validate", "server://down/a.jsonl"]) == ExitCode.USAGE
    assert "server://down/a.jsonl cannot be listed: EOFError: nobody there" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["d", "d/", "*.jsonl"])
def test_local_urls_are_listed_as_they_were_named(folder: str, tmp_path: Any) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").write_text("{}")
    name = "b.jsonl" if "*" in folder else "d/a.jsonl"
    assert storage.list_files(f"file://{tmp_path}/{folder}") == [f"file://{tmp_path}/{name}"]


LEFT = (
    "import os, signal, sys; from kto_data.scratch import ScratchFolder\n"
    "folder = ScratchFolder('ray-'); open(folder.name + '/large', 'w').close(); print(folder.name, flush=True)\n"
    "if sys.argv[1] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
    "sys.stdin.read()\n"
)


def test_what_a_killed_process_has_left_is_removed_and_nothing_that_is_in_use(tmp_path: Path) -> None:
    env = os.environ | {"TMPDIR": str(tmp_path)}
    somebodys, in_the_making, evil = (tmp_path / f"{scratch._PREFIX}{name}" for name in ("notes", "new", "evil"))
    for folder in (somebodys, in_the_making, evil):
        folder.mkdir()
    (in_the_making / ".in-use.new").touch()
    (evil / ".in-use").symlink_to(__file__)
    command = [sys.executable, "-c", LEFT]
    killed = subprocess.run([*command, "killed"], env=env, capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert (left / "large").exists()
    with subprocess.Popen([*command, ""], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as alive:
        assert alive.stdout is not None
        used = Path(alive.stdout.readline().strip())
        with ScratchFolder(root=str(tmp_path)) as own:
            assert {path.name for path in tmp_path.iterdir()} == {
                *(somebodys.name, in_the_making.name, evil.name, used.name, Path(own).name)
            }
            assert (used / "large").exists()
        alive.communicate("")
    assert sorted(tmp_path.iterdir()) == sorted([somebodys, in_the_making, evil])

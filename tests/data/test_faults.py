"""A full disk, and a folder that may not be written to: one line, exit code 2, and the next run as if nothing was."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from forked import fork_workers, forking_server
from test_preprocess import files_of

from kto_data import assemble
from kto_data import publish as publishing
from kto_data.cli import main
from kto_data.errors import ExitCode

_CAPABILITIES_V3 = 0x20080522


def small_files_only(limit: int) -> None:
    """From here on a file that grows beyond `limit` bytes is one on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def no_privileges(_: int = 0) -> None:
    """From here on permissions bind, even the superuser."""
    header, no_capability = struct.pack("Ii", _CAPABILITIES_V3, 0), bytes(24)
    assert ctypes.CDLL(None, use_errno=True).capset(header, no_capability) == 0, os.strerror(ctypes.get_errno())


def permission_lost(step: int) -> None:
    """From here on permissions bind, and the folder of the file that a process has written so maniest is read-only."""
    no_privileges()
    replace, written = os.replace, itertools.count(1)

    def replace_and_lock(source: Path, target: Path) -> None:
        replace(source, target)
        if next(written) == step:
            target.parent.chmod(0o500)

    os.replace = replace_and_lock  # type: ignore[assignment]


def killed_while_publishing(step: int) -> None:
    """From here on a kill comes at so manieth a change to the file system since a cache is put in its place."""
    steps = itertools.count(1)

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return counted

    def publish(*arguments: Any) -> None:
        for home, name in ((os, "fsync"), (os, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            setattr(home, name, counted(getattr(home, name)))
        publishing.publish(*arguments)

    assemble.publish = publish  # type: ignore[attr-defined]


def in_trouble(arguments: list[str], said: Path, trouble: Callable[[int], None], degree: int) -> None:
    """Run the command line with what it says in the file `said`."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    fork_workers()
    trouble(degree)
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what else ends with a process, coverage's files among it, would be in trouble too


Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    make_image(folder / "one.png")
    rows = []
    for number in range(40):
        turns = [("user", f"{'<image>' * (number % 2)}Question {number % 30}?"), ("assistant", "An answer.")]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append(make_record(messages=messages, images=["one.png"] * (number % 2), label=number % 4 < 2))
    data = write_jsonl(folder / "all.jsonl", rows)
    options = ["--eval-fraction", "0.3", "--contradictions", "drop", "--shard-rows", "10", "--jobs", "1", "--quiet"]
    return ["preprocess", str(data), "--model", str(tiny_model("llava")), *options]


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("undisturbed") / "cache"
    assert main([*command, "--output", str(cache)]) == 0
    return cache


@pytest.fixture
def run(command: list[str], tmp_path: Path) -> Run:
    """Runs the command in a process that is in trouble, and gives its exit code and what it said."""

    def run(trouble: Callable[[int], None], degree: int = 0, *options: str) -> tuple[int, str]:
        arguments = [*command, "--output", str(tmp_path / "cache"), *options]
        process = forking_server().Process(target=in_trouble, args=(arguments, tmp_path / "said", trouble, degree))
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, (tmp_path / "said").read_text()

    return run


def is_told(said: str) -> bool:
    """Whether it is one line about writing, and what to try."""
    what, hint, *more = said.splitlines()
    return what.startswith("ktodata: error: cannot write ") and hint.startswith("ktodata:   try: ") and not more


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_disk_that_is_full_at_any_file_is_told_in_one_line_and_leaves_all_for_the_next_run(
    run: Run, command: list[str], undisturbed: Path, tmp_path: Path, jobs: str
) -> None:
    def largest(pattern: str) -> int:
        return max(path.stat().st_size for path in undisturbed.glob(pattern))

    kinds = (".units/keys-*", ".units/[0-9a-f]*", "*/*.arrow", "report.json", "rejects.jsonl", "manifest.json")
    cache = tmp_path / "cache"
    for limit in sorted({largest(kind) - 1 for kind in kinds}):
        code, said = run(small_files_only, limit, "--jobs", jobs)
        assert code == ExitCode.USAGE, said
        assert is_told(said), said
        assert not (cache / "manifest.json").exists()
        # A worker that is stopped because another one has failed leaves the file that it is at to the next run.
        assert jobs != "1" or not list(cache.rglob("*.tmp"))
    assert main([*command, "--output", str(cache)]) == 0
    assert files_of(cache) == files_of(undisturbed)
    assert not (cache / ".building").exists()


@pytest.mark.parametrize("folder", [".", ".building", ".building/.units", ".building/train", ".building/eval"])
def test_a_folder_that_may_not_be_written_to_is_told_in_one_line(
    run: Run, command: list[str], undisturbed: Path, tmp_path: Path, folder: str
) -> None:
    cache = tmp_path / "cache"
    for name in (".building/.units", ".building/train", ".building/eval"):
        (cache / name).mkdir(parents=True)
    (cache / folder).chmod(0o500)
    code, said = run(no_privileges)
    assert code == ExitCode.USAGE, said
    assert is_told(said), said
    assert not (cache / "manifest.json").exists()
    (cache / folder).chmod(0o700)
    assert main([*command, "--output", str(cache)]) == 0
    assert files_of(cache) == files_of(undisturbed)


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_permission_that_is_lost_meanwhile_is_told_in_one_line_and_leaves_all_for_the_next_run(
    run: Run, command: list[str], undisturbed: Path, tmp_path: Path, step: int, jobs: str
) -> None:
    cache = tmp_path / "cache"
    code, said = run(permission_lost, step, "--jobs", jobs)
    assert code == ExitCode.USAGE, said
    assert is_told(said), said
    assert not (cache / "manifest.json").exists()
    for folder in [path for path in cache.rglob("*") if path.is_dir()]:
        folder.chmod(0o700)
    assert main([*command, "--output", str(cache)]) == 0
    assert files_of(cache) == files_of(undisturbed)
    assert not (cache / ".building").exists()


def test_an_earlier_cache_that_may_not_be_replaced_is_told_in_one_line(
    run: Run, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert main([*command, "--output", str(cache), "--seed", "1"]) == 0
    (cache / "train").chmod(0o500)
    code, said = run(no_privileges)
    assert code == ExitCode.USAGE, said
    assert is_told(said), said
    (cache / "train").chmod(0o700)
    assert main([*command, "--output", str(cache)]) == 0
    assert files_of(cache) == files_of(undisturbed)


@pytest.mark.slow
def test_a_kill_at_any_step_of_putting_a_cache_in_its_place_leaves_all_for_the_next_run(
    run: Run, command: list[str], tmp_path: Path
) -> None:
    whole, earlier, cache = (tmp_path / name for name in ("whole", "earlier", "cache"))
    packing = ("--pack-images", "original")
    assert main([*command, "--output", str(whole), *packing]) == 0
    assert main([*command, "--output", str(earlier), *packing, "--seed", "1"]) == 0
    for folder in (whole, earlier):
        (folder / "note.txt").write_text("somebody's")
    manifests = [(folder / "manifest.json").read_bytes() for folder in (whole, earlier)]
    for step in itertools.count(1):
        shutil.copytree(earlier, cache)
        code, said = run(killed_while_publishing, step, *packing)
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        assert not (cache / "manifest.json").exists() or (cache / "manifest.json").read_bytes() in manifests
        assert main([*command, "--output", str(cache), *packing]) == 0
        assert files_of(cache) == files_of(whole)
        assert not (cache / ".building").exists()
        shutil.rmtree(cache)
    assert step > 12
    assert files_of(cache) == files_of(whole)

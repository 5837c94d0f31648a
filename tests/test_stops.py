"""What becomes of an interrupt, and of an exception that nobody foresaw."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TinyModel, make_record, write_jsonl

from kto_data import validate
from kto_data.cli import main

LINE = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": true}\n'


def interrupted(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command that reads standard input for ever, until it is interrupted."""
    command = [sys.executable, "-m", "kto_data", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdin is not None
        run.stdin.write(LINE * 20_000)
        run.stdin.flush()
        time.sleep(1)
        os.kill(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=60)
    return run.returncode, err.decode()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_validation_is_130_and_one_line(jobs: str) -> None:
    code, err = interrupted("validate", "-", "--jobs", jobs)
    assert code == 130
    assert err.splitlines()[-1] == "ktodata: interrupted"
    assert "Traceback" not in err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_preprocessing_leaves_no_cache(tiny_model: TinyModel, tmp_path: Path, jobs: str) -> None:
    cache = tmp_path / "cache"
    options = ["--model", str(tiny_model("text")), "--output", str(cache), "--shard-rows", "500"]
    code, err = interrupted("preprocess", "-", "--jobs", jobs, *options)
    assert code == 130
    assert err.splitlines()[-1] == "ktodata: interrupted"
    assert not cache.exists() or set(os.listdir(cache)) <= {".lock", ".building"}


def test_a_bug_of_ours_is_neither_a_finding_nor_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*args: object) -> object:
        raise RuntimeError("not foreseen")

    broken = write_jsonl(tmp_path / "broken.jsonl", [make_record(label="true")])
    monkeypatch.setattr(validate, "note", crash)  # no rule: what one of those raises is a finding
    assert main(["validate", str(broken), "--jobs", "1"]) == 101
    err = capsys.readouterr().err
    assert "not foreseen" in err
    assert "this is a bug in ktodata" in err

"""What becomes of an interrupt, and of an exception that nobody foresaw; and how the program is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TinyModel, make_record, write_jsonl

from kto_data import examine
from kto_data.cli import main

LINE = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": true}\n'


def interrupted(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a command that reads standard input for ever, until it is interrupted."""
    command = [sys.executable, "-m", "kto_data", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell starts in the background ignores interrupts, and so would all that it starts: these tests too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        assert run.stdin is not None
        run.stdin.write(LINE * 20_000)
        run.stdin.flush()
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


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_a_closed_stream_changes_no_exit_code(tmp_path: Path, closed: str) -> None:
    broken = write_jsonl(tmp_path / "broken.jsonl", [make_record(label="true")])
    command = f'"$0" -m kto_data validate "$1" {closed}'
    run = subprocess.run(["sh", "-c", command, sys.executable, broken], capture_output=True, check=False)
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr


def test_a_locale_without_unicode_loses_no_report(tmp_path: Path) -> None:
    broken = write_jsonl(tmp_path / "broken.jsonl", [make_record(label="true"), make_record(**{"größe": 7})])
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for output_format in ("full", "json"):
        command = [sys.executable, "-m", "kto_data", "validate", broken, "--output-format", output_format]
        run = subprocess.run(command, env=plain, capture_output=True, check=False)
        assert (run.returncode, b"Traceback" in run.stderr) == (1, False)
        assert "größe" in run.stdout.decode()


def test_a_file_name_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[31m red\n.jsonl"
    write_jsonl(tmp_path / name, [make_record(), make_record(label=False)])
    assert main(["validate", str(tmp_path), str(tmp_path / name)]) == 1  # a contradiction
    assert main(["validate", str(tmp_path / name), "--exit-zero", "--ignore", "KTO401"]) == 0
    assert main(["validate", str(tmp_path / name) + "x"]) == 2
    assert main(["convert", str(tmp_path / name), "--output", str(tmp_path / f"1 {name}")]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "next: ktodata preprocess '" in said.err  # within quotes, to be typed as it stands
    assert "next: ktodata validate '" in said.err
    assert "\\x1b[31m red" in said.err


def test_a_bug_of_ours_is_neither_a_finding_nor_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*args: object) -> object:
        raise RuntimeError("not foreseen")

    broken = write_jsonl(tmp_path / "broken.jsonl", [make_record(label="true")])
    monkeypatch.setattr(examine, "note", crash)  # no rule: what one of those raises is a finding
    assert main(["validate", str(broken), "--jobs", "1"]) == 101
    err = capsys.readouterr().err
    assert "not foreseen" in err
    assert "this is a bug in ktodata" in err


def left(steps: str) -> tuple[int, str]:
    """The exit code and the output of a process that is left with 3 after some steps."""
    program = f"import atexit, sys, threading, time\nfrom kto_data.cli import leave\n{steps}\nleave(3)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_process_that_is_left_frees_nothing_and_does_what_was_to_be_done_at_the_end() -> None:
    steps = """
class Freed:
    def __del__(self):
        print("freed")
kept = Freed()
atexit.register(print, "done at the end")
print("said", end=" ")
"""
    assert left(steps) == (3, "said done at the end\n")


def test_a_process_that_is_left_waits_for_its_threads() -> None:
    steps = "threading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()"
    assert left(steps) == (3, "done\n")


def test_a_process_that_is_left_waits_for_no_daemon() -> None:
    assert left("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()") == (3, "")


def test_a_process_that_is_left_lets_a_profiler_tell_what_it_saw(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from kto_data.cli import leave\nleave(3)\n")
    done = subprocess.run([sys.executable, "-m", "cProfile", str(script)], capture_output=True, text=True, check=False)
    assert "(leave)" in done.stdout


def test_a_process_whose_reader_has_gone_is_left_all_the_same() -> None:
    assert left("sys.stdout = open('/dev/full', 'w'); print('said to nobody')") == (3, "")

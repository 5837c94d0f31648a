"""`ktodata validate --fix` as a program: what is written, what is left alone, what is refused beforehand."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl

from kto_data.cli import main
from kto_data.inputs import open_inputs
from kto_data.mend.lines import raw_lines


def answered(answer: str, **overrides: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}]
    return make_record(messages=turns, **overrides)


ROWS = [answered("one", label="true"), b"{", answered("two", label=False)]
MENDED = [json.dumps(answered(word, label=label)).encode() + b"\n" for word, label in (("one", True), ("two", False))]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_jsonl(Path("data.jsonl"), ROWS)


def fix(*arguments: str) -> int:
    return main(["validate", *arguments, "--quiet"])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said where the options are refused; that nothing was touched is asserted."""
    before = {name: Path(name).read_bytes() for name in sorted(os.listdir()) if Path(name).is_file()}
    assert fix(*arguments) == 2
    assert {name: Path(name).read_bytes() for name in sorted(os.listdir()) if Path(name).is_file()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_rows_go_to_out_and_rejects_and_the_input_stays(data: Path, suffix: str) -> None:
    before = data.read_bytes()
    out, rejects = f"out.jsonl{suffix}", f"rejects.jsonl{suffix}"
    assert fix(str(data), "--fix", "--out", out, "--rejects", rejects) == 0
    assert data.read_bytes() == before
    assert list(raw_lines(open_inputs([out])[0].source)) == MENDED
    (entry,) = (json.loads(line) for line in raw_lines(open_inputs([rejects])[0].source))
    assert (entry["file"], entry["line"], entry["rules"], entry["raw"]) == ("data.jsonl", 2, ["KTO101"], "{")


def test_a_fix_without_a_place_to_write_to_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs one place" in refusal(capsys, "data.jsonl", "--fix")
    assert "without --fix" in refusal(capsys, "data.jsonl", "--out", "out.jsonl")


@pytest.mark.parametrize("name", ["data.jsonl", "./../{here}/data.jsonl", "soft.jsonl", "hard.jsonl"])
@pytest.mark.parametrize(
    "options",
    [["--fix", "--out"], ["--fix", "--out", "out.jsonl", "--rejects"], ["--output-file"], ["--write-baseline"],
     ["--report"]],
)  # fmt: skip
def test_the_input_is_never_written_over(
    data: Path, options: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.symlink("data.jsonl", "soft.jsonl")
    os.link("data.jsonl", "hard.jsonl")
    name = name.format(here=Path.cwd().name)
    refusal(capsys, "data.jsonl", *options, f"json:{name}" if options == ["--report"] else name)
    assert os.path.islink("soft.jsonl")


def test_no_two_results_go_to_one_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["data.jsonl", "--fix", "--out", "out.jsonl"]
    assert "one of the data files" in refusal(capsys, *out, "--rejects", "out.jsonl")
    assert "--output-file out.jsonl is also --out" in refusal(capsys, *out, "--output-file", "out.jsonl")
    assert "also --rejects" in refusal(capsys, *out, "--rejects", "r.jsonl", "--report", "json:r.jsonl")


def test_a_pipe_stays_a_pipe_and_takes_what_can_be_written_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a device does, and a link to either."""
    os.mkfifo("pipe")
    os.symlink("pipe", "pipe.jsonl")
    pipe = os.open("pipe.jsonl", os.O_RDWR | os.O_NONBLOCK)  # so that neither end waits for the other
    assert fix("data.jsonl", "--exit-zero", "-o", "pipe.jsonl", "--report", "json:pipe.jsonl") == 0
    assert os.read(pipe, 1 << 16).count(b"KTO101") > 1
    assert "--out pipe.jsonl is not a regular file" in refusal(capsys, "data.jsonl", "--fix", "--out", "pipe.jsonl")
    with pytest.raises(BlockingIOError):
        os.read(pipe, 1)
    os.close(pipe)
    assert os.path.islink("pipe.jsonl")
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_statistics_are_not_written_over_their_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = data.read_bytes()
    assert main(["stats", "data.jsonl", "-o", "data.jsonl"]) == 2
    assert data.read_bytes() == before


@pytest.mark.parametrize("place", ["-", "no/rejects.jsonl"])
def test_rejects_go_to_a_file_in_a_folder_that_is_there(
    data: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--rejects {place}" in refusal(capsys, "data.jsonl", "--fix", "--out", "out.jsonl", "--rejects", place)


def test_a_folder_that_is_not_there_is_no_matter_of_space(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "make its folder first" in refusal(capsys, "data.jsonl", "--fix", "--out", "no/out.jsonl")


def test_what_is_replaced_in_place_keeps_its_link_and_its_mode(data: Path) -> None:
    data.chmod(0o640)
    os.symlink("data.jsonl", "link.jsonl")
    assert fix("link.jsonl", "--fix", "--in-place", "--rejects", "rejects.jsonl") == 0
    assert os.path.islink("link.jsonl")
    assert data.read_bytes() == b"".join(MENDED)
    assert data.stat().st_mode & 0o777 == 0o640
    inode = data.stat().st_ino
    assert fix("data.jsonl", "--fix", "--in-place") == 0
    assert data.stat().st_ino == inode  # as there was nothing to do
    assert sorted(os.listdir()) == ["data.jsonl", "link.jsonl", "rejects.jsonl"]


def test_a_file_in_which_nothing_is_done_is_not_replaced(data: Path) -> None:
    write_jsonl(data, [answered("Red."), answered("Red."), answered("Blue.", label=False)])
    # One side of the pair is there already, and the other is not: the row stays.
    prompt = answered("Red.")["messages"][:1]
    sides = {
        name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "Red."), ("rejected", "Green."))
    }
    pair = write_jsonl(Path("pair.jsonl"), [{"prompt": prompt, **sides}])
    before = pair.stat()
    assert fix("data.jsonl", "pair.jsonl", "--fix", "--in-place", "--rejects", "rejects.jsonl", "--exit-zero") == 0
    assert len(data.read_bytes().splitlines()) == 2
    assert (pair.stat().st_ino, pair.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_compressed_file_is_not_replaced_in_place(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.jsonl.gz").write_bytes(gzip.compress(data.read_bytes()))
    assert "is compressed" in refusal(capsys, "data.jsonl.gz", "--fix", "--in-place")


def test_an_array_is_refused_with_the_way_to_convert_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.json").write_text(json.dumps([make_record()]))
    assert "ktodata convert data.json" in refusal(capsys, "data.json", "--fix", "--in-place")


@pytest.mark.parametrize("options", [["--out", "out.jsonl"], ["--in-place"]])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, options: list[str]) -> None:
    rows = [answered(str(index), label=str(index % 2)) for index in range(2_000)]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    before = data.read_bytes()
    program = (
        "import resource, sys; from kto_data.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "validate", "data.jsonl", "--fix", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert "cannot write" in run.stderr
    assert "free some space" in run.stderr
    assert data.read_bytes() == before
    assert os.listdir(tmp_path) == ["data.jsonl"]


@pytest.mark.parametrize("name", ["a b.jsonl", 'a"\\\nb.jsonl', "é.jsonl"])
def test_a_diff_names_its_file_as_patch_reads_it(data: Path, name: str, capfdbinary: Any) -> None:
    data.rename(name)
    assert fix(name, "--diff", "--rejects", "rejects.jsonl") == 1
    diff = capfdbinary.readouterr().out
    subprocess.run(["patch", "--binary", "-p0"], input=diff, check=True, capture_output=True)
    assert Path(name).read_bytes() == b"".join(MENDED)
    assert not Path("rejects.jsonl").exists()


def test_a_diff_is_summed_up_and_nothing_is_written(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = data.read_bytes()
    assert main(["validate", "data.jsonl", "--fix", "--diff", "--out", "out.jsonl", "--rejects", "rejects.jsonl"]) == 1
    told = "2 findings (KTO101 1, KTO402 1) would be mended, and 1 row would go; nothing is written"
    assert told in capsys.readouterr().err
    assert os.listdir() == ["data.jsonl"]
    assert data.read_bytes() == before
    assert main(["validate", "data.jsonl", "--diff", "--exit-zero"]) == 0


@pytest.mark.parametrize("command", [["validate"], ["validate", "--fix", "--out", "-"], ["validate", "--diff"]])
def test_output_that_does_not_fit_is_no_bug_and_a_reader_that_goes_no_error(data: Path, command: list[str]) -> None:
    program = [sys.executable, "-m", "kto_data", *command, "data.jsonl"]
    with open("/dev/full", "wb") as full:
        run = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    assert "cannot write the output" in run.stderr
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert run.returncode == 0
    assert "Error" not in run.stderr

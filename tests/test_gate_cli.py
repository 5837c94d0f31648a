"""What stands between findings and the exit code: severities, thresholds, suppressions, baselines, revisions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record, write_jsonl

from kto_data.cli import main


def answered(answer: str, **overrides: Any) -> dict[str, Any]:
    return make_record(
        messages=[{"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}], **overrides
    )


GOOD = [answered("one"), answered("two", label=False)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten records, of which two say something nobody asked for (KTO111, a warning); its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [answered(str(index), label=index % 2 == 0) for index in range(8)]
    rows += [answered(f"odd {index}", id=f"odd-{index}", label=index == 0, unheard=1) for index in range(2)]
    return write_jsonl(Path("data.jsonl"), rows)


def codes(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str], str]:
    """Exit code, the codes found, and what was said beside them."""
    exit_code = main(["validate", "--output-format", "concise", *map(str, arguments)])
    captured = capsys.readouterr()
    return exit_code, [line.split(": ")[1].split(" ")[0] for line in captured.out.splitlines()], captured.err


def test_severities_are_the_users(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(capsys, data)[0] == 0
    assert codes(capsys, data, "--severity", "KTO111=error")[0] == 1
    assert codes(capsys, data, "--severity", "unknown-field=error")[0] == 1
    assert codes(capsys, data, "--severity", "KTO=error", "--severity", "KTO111=info")[0] == 0


@pytest.mark.parametrize(
    ("threshold", "expected"), [("1", 1), ("2", 0), ("19%", 1), ("20%", 0), ("0", 1)], ids=lambda value: str(value)
)
def test_a_threshold_is_passed_by_more_than_its_number(data: Path, threshold: str, expected: int) -> None:
    assert main(["validate", str(data), "--threshold", f"KTO111={threshold}"]) == expected


def test_what_a_threshold_puts_up_with_is_shown_and_fails_nothing(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ktodata.toml").write_text('[thresholds]\nKTO111 = { warn = 2, error = "50%" }\n')
    exit_code, found, said = codes(capsys, data, "--fail-level", "info")
    assert (exit_code, found) == (0, ["KTO111", "KTO111"])
    assert "2 notes" in said


def test_rules_are_left_out_for_some_files_and_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_jsonl(Path("eval/other.jsonl"), [answered("other", unheard=1)])
    option = ["--per-file-ignores", "eval/*.jsonl:KTO1,KTO405"]
    exit_code, found, said = codes(capsys, data, other, *option)
    assert (exit_code, found) == (0, ["KTO111", "KTO111"])
    assert "1 ignored in their files" in said


SUPPRESS = """
[[suppress]]
rule = "unknown-field"
row = "odd-1"
reason = "read by another tool"
"""


def test_a_suppressed_finding_is_counted_and_not_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ktodata.toml").write_text(SUPPRESS)
    _, found, said = codes(capsys, data)
    assert found == ["KTO111"]
    assert "not shown: 1 suppressed" in said


def test_a_suppression_ends_on_its_day(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ktodata.toml").write_text(f"{SUPPRESS}expires = 2020-01-31\n")
    assert main(["validate", str(data)]) == 0
    assert "(its suppression ended on 2020-01-31: read by another tool)" in " ".join(capsys.readouterr().out.split())
    Path("ktodata.toml").write_text(f"{SUPPRESS}expires = 9999-01-31\n")
    assert codes(capsys, data)[1] == ["KTO111"]


def test_a_suppression_that_hides_nothing_is_found(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ktodata.toml").write_text(SUPPRESS.replace("odd-1", "odd-7"))
    assert codes(capsys, data, "--extend-select", "KTO708")[1] == ["KTO111", "KTO111", "KTO708"]


def test_only_what_is_not_in_the_baseline_fails(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict = ["--fail-level", "warning"]
    assert codes(capsys, data, *strict)[0] == 1
    assert codes(capsys, data, *strict, "--write-baseline", "known.json")[0] == 0
    exit_code, found, said = codes(capsys, data, *strict, "--baseline", "known.json")
    assert (exit_code, found) == (0, [])
    assert "2 in the baseline" in said
    rows = data.read_text().splitlines()
    data.write_text("\n".join([rows[-1], *rows, ""]))  # a copy of a row that is known, and every row at another line
    exit_code, found, _ = codes(capsys, data, *strict, "--baseline", "known.json", "--ignore", "KTO4,KTO6")
    assert (exit_code, found) == (1, ["KTO111"])


def test_a_baseline_is_the_same_for_rows_in_any_order_and_holds_none_of_their_words(data: Path) -> None:
    assert main(["validate", str(data), "--write-baseline", "one.json"]) == 0
    data.write_text("".join(reversed(data.read_text().splitlines(keepends=True))))
    assert main(["validate", str(data), "--write-baseline", "two.json"]) == 0
    text = Path("one.json").read_text()
    assert Path("two.json").read_text() == text
    assert "odd" not in text
    assert [len(print_) for print_ in json.loads(text)["findings"]["KTO111"]] == [32, 32]


def test_what_a_baseline_has_and_the_data_no_more_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(capsys, data, "--write-baseline", "known.json")[0] == 0
    write_jsonl(data, GOOD)
    assert "2 findings of the baseline are found no more" in codes(capsys, data, "--baseline", "known.json")[2]


@pytest.mark.parametrize("text", [None, "", "{}", '{"schema_version": 2, "findings": {}}', '{"findings": {"A": 1}}'])
def test_a_file_that_is_no_baseline_is_refused(
    data: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("known.json").write_text(text)
    exit_code, _, said = codes(capsys, data, "--baseline", "known.json")
    assert exit_code == 2
    assert "baseline" in said


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(data: Path) -> Path:
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "data")
    return data


def test_what_a_revision_had_too_is_not_new(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(capsys, repository, "--new-from", "HEAD")[1] == []
    rows = repository.read_text().splitlines()
    new = json.dumps(answered("new", unheard=2))
    repository.write_text("\n".join([new, *reversed(rows), ""]))
    added = write_jsonl(Path("added.jsonl"), [answered("added", unheard=3, label=False)])
    _, found, said = codes(capsys, repository, added, "--new-from", "HEAD", "--ignore", "KTO4")
    assert found == ["KTO111", "KTO111"]
    assert "2 known before" in said


def test_an_image_that_an_old_row_lacks_is_known(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = [{"type": "image"}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": part}, {"role": "assistant", "content": "Nothing."}]
    rows = [make_record(messages=messages, images=["gone.png"], label=False), *GOOD, answered("three")]
    pictured = write_jsonl(Path("pictures/pictured.jsonl"), rows)
    git("add", ".")
    git("commit", "-m", "pictures")
    assert codes(capsys, pictured)[1] == ["KTO201"]
    assert codes(capsys, pictured, "--new-from", "HEAD")[1] == []
    assert codes(capsys, pictured, "--new-from", "HEAD~1")[1] == ["KTO201"]
    monkeypatch.chdir("pictures")
    assert codes(capsys, "pictured.jsonl", "--new-from", "HEAD")[1] == []


def test_a_revision_that_is_not_there_is_a_usage_error(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for revision in ("v9", "--output=x", ""):
        exit_code, _, said = codes(capsys, repository, f"--new-from={revision}")
        assert exit_code == 2
        assert "has no revision" in said


def test_outside_a_repository_there_are_no_revisions(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, _, said = codes(capsys, data, "--new-from", "HEAD")
    assert exit_code == 2
    assert "not a git repository" in said
    assert codes(capsys, "-", "--new-from", "HEAD")[0] == 2


def test_every_report_says_how_much_is_hidden(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ktodata.toml").write_text(SUPPRESS)
    assert main(["validate", str(data), "--output-format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["hidden"] == {"suppressed": 1}
    assert main(["validate", str(data), "--output-format", "markdown"]) == 0
    assert "Not shown: 1 suppressed." in capsys.readouterr().out

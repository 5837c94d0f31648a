from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl

from kto_data.cli import main


def odd_data(folder: Path) -> Path:
    rows = []
    for index in range(80):
        is_good = index % 2 == 0
        turns = [
            {"role": "user", "content": f"Question {index}?"},
            {"role": "assistant", "content": f"A whole sentence about {index}." if is_good else "No."},
        ]
        rows.append(make_record(messages=turns, label=is_good))
    return write_jsonl(folder / "data.jsonl", rows)


def test_stats_shows_labels_lengths_and_what_is_odd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(odd_data(tmp_path)), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "train  80 samples of 80 prompts, 0 with both labels" in shown
    assert "balance 1, within [1, 4/3]" in shown
    assert "tells the labels apart with AUC 1.00" in shown
    assert "40 samples (50%) share their completion with another" in shown
    assert "worth a look" in shown
    assert max(len(line) for line in shown.splitlines() if str(tmp_path) not in line) <= 80


def test_stats_as_json_are_the_stats_of_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(odd_data(tmp_path))
    assert main(["stats", path, "--quiet", "--output-format", "json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert main(["validate", path, "--quiet", "--output-format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["stats"] == stats
    assert stats["splits"][0]["num_repeated_completions"] == 40


def test_stats_fails_on_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [b"{", make_record()])
    assert main(["stats", str(path)]) == 0
    assert "1 sample of 1 prompt" in capsys.readouterr().out
    path = write_jsonl(tmp_path / "bad.jsonl", [b"{"])
    assert main(["stats", str(path)]) == 0
    assert "no record can be read" in capsys.readouterr().out


def test_stats_of_a_file_that_is_not_there_exits_with_two(tmp_path: Path) -> None:
    assert main(["stats", str(tmp_path / "none.jsonl")]) == 2


def test_stats_shows_each_split_and_what_leaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = odd_data(tmp_path)
    held_out = write_jsonl(tmp_path / "eval.jsonl", train.read_bytes().splitlines()[:3])
    arguments = ["stats", str(train), "--split", f"eval={held_out}", "--batch-size", "4", "--quiet"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "eval  3 samples" in shown
    assert "3 samples with a prompt of train" in shown
    assert "batches  20 of 4 samples" in shown


def test_stats_writes_to_a_file(tmp_path: Path) -> None:
    output = tmp_path / "stats.txt"
    assert main(["stats", str(odd_data(tmp_path)), "-o", str(output), "--quiet"]) == 0
    assert output.read_text(encoding="utf-8").startswith("train  80 samples")


def test_stats_knows_the_images_of_clean_records_and_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image(tmp_path / "a.png", 100, 50)
    turns = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A square."}]
    rows = [make_record(messages=turns, images=["a.png"], label=False), make_record(messages=turns, images=["b.png"])]
    unusual = make_record(messages=turns, images=["a.png"], metadata={"a": 1})
    path = write_jsonl(tmp_path / "data.jsonl", [*rows, unusual])
    assert main(["stats", str(path), "--quiet", "--output-format", "json"]) == 0
    (split,) = json.loads(capsys.readouterr().out)["splits"]
    assert split["pixel_area"]["desirable"] == split["pixel_area"]["undesirable"] == [5_000] * 5
    assert split["pixel_area"]["bins"] == [[5_000, 7_000, 1, 1]]


def test_bars_begin_below_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "Count."}]
    lengths = (1, 30, 2_000_000)
    rows = [make_record(messages=[*turns, {"role": "assistant", "content": "a" * length}]) for length in lengths]
    assert main(["stats", str(write_jsonl(tmp_path / "data.jsonl", rows)), "--quiet"]) == 0
    bars = [line for line in capsys.readouterr().out.splitlines() if " to " in line and "█" in line]
    assert len(bars) == len(lengths)
    assert len({line.index("█") for line in bars}) == 1


def test_stats_of_a_cache_are_its_report(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, markdown = tmp_path / "cache", tmp_path / "report.md"
    command = ["preprocess", str(odd_data(tmp_path)), "--model", str(tiny_model("text")), "--output", str(cache)]
    assert main([*command, "--quiet", "--jobs", "1", "--report", f"markdown:{markdown}"]) == 0
    for output_format, name in (("json", "report.json"), ("markdown", "report.md"), ("html", "report.html")):
        capsys.readouterr()
        assert main(["stats", str(cache), "--output-format", output_format]) == 0
        assert capsys.readouterr().out == (cache / name).read_text(encoding="utf-8")
    assert markdown.read_bytes() == (cache / "report.md").read_bytes()
    assert main(["stats", str(cache)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("train  80 rows of 80 read")
    assert shown.endswith("  weights: auto  # the default: 1 and 1, which gives b = 1\n")
    assert main([*command, "--jobs", "1", "--batch-size", "8"]) == 0  # the report alone is another one
    assert "1 of 1 shards were done already" in capsys.readouterr().err
    assert "  in batches of 8" in (cache / "report.html").read_text().replace("In", "  in")


def test_how_validate_prints_is_not_how_stats_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = odd_data(tmp_path)
    monkeypatch.setenv("KTODATA_OUTPUT_FORMAT", "sarif")
    monkeypatch.setenv("KTODATA_OUTPUT_FILE", str(tmp_path / "findings.sarif"))
    assert main(["stats", str(data), "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith("train  80 samples")
    assert not (tmp_path / "findings.sarif").exists()


@pytest.mark.parametrize("command", [["stats", "-o"], ["inspect", "--html"]])
def test_nothing_is_written_into_the_cache_that_is_shown(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    assert main([command[0], str(tmp_path), command[1], str(manifest)]) == 2
    assert f"{manifest} is in the cache\n" in capsys.readouterr().err
    assert manifest.read_text() == "{}"


def test_what_is_for_data_alone_is_refused_of_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["stats", str(tmp_path), "--limit", "3"]) == 2
    assert "--limit is for data, and this is a cache" in capsys.readouterr().err
    assert main(["stats", str(tmp_path)]) == 2
    assert "manifest.json is not understood" in capsys.readouterr().err
    assert main(["stats", str(odd_data(tmp_path)), "--output-format", "html"]) == 2
    assert "--output-format html is for a cache" in capsys.readouterr().err

"""What validates, trains: the example data through all three commands, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import TinyModel

EXAMPLES = Path(__file__).parent.parent / "examples"


def ktodata(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kto_data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def codes_by_line(text: str) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for finding in json.loads(text)["findings"]:
        found.setdefault(finding["line"], set()).add(finding["code"])
    return found


def test_the_example_goes_from_jsonl_to_a_trained_model(tmp_path: Path, tiny_model: TinyModel) -> None:
    train, held_out = EXAMPLES / "shapes" / "train.jsonl", EXAMPLES / "shapes" / "eval.jsonl"
    model = tiny_model("llava")

    validated = ktodata("validate", train, held_out, cwd=tmp_path)
    assert validated.returncode == 0, validated.stderr

    preprocessed = ktodata(
        "preprocess", train, "--eval-data", held_out, "--model", model, "--output", "c", cwd=tmp_path
    )
    assert preprocessed.returncode == 0, preprocessed.stderr
    assert {split["split"] for split in json.loads((tmp_path / "c" / "manifest.json").read_text())["inputs"]} == {
        "train",
        "eval",
    }

    # From another folder: nothing in a cache depends on where one stands.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = ["--cache", "../c", "--model", model, "--output", "run", "--batch-size", "4", "--max-steps", "2"]
    trained = ktodata("train", *arguments, "--set", "kto.logging_steps=1", cwd=elsewhere)
    assert trained.returncode == 0, trained.stderr
    assert "[WARNING]" not in trained.stdout  # other libraries speak when they are imported
    assert len((elsewhere / "run" / "metrics.jsonl").read_text().splitlines()) >= 2
    assert (elsewhere / "run" / "model.safetensors").exists()


def test_each_broken_row_is_found_under_its_own_rule(tmp_path: Path) -> None:
    done = ktodata("validate", EXAMPLES / "broken.jsonl", "--output-format", "json", "--select", "KTO", cwd=tmp_path)
    assert done.returncode == 1
    found = codes_by_line(done.stdout)
    expected = {
        2: "KTO402",
        3: "KTO109",
        4: "KTO306",
        5: "KTO112",
        6: "KTO201",
        7: "KTO305",
        8: "KTO203",
        9: "KTO205",
        10: "KTO301",
        11: "KTO302",
        12: "KTO309",
        13: "KTO104",
        15: "KTO401",
        16: "KTO101",
    }
    assert {line: code for line, code in expected.items() if code not in found.get(line, set())} == {}
    assert 1 not in found

"""The README shows what the program says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from kto_data.cli import main
from kto_data.errors import ExitCode

ROOT = Path(__file__).parents[1]


def test_findings_in_the_readme_are_those_of_the_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["validate", "examples/broken.jsonl", "--output-format", "concise"]) == 1
    said = capsys.readouterr().out.splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown = [line.strip() for line in readme if line.startswith("    examples/broken.jsonl:")]
    assert len(shown) > 5
    assert [line for line in shown if line not in said] == []


def test_what_can_be_mended_in_the_example_is_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    main(["validate", "examples/broken.jsonl", "--diff"])
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "would be mended" in line]
    assert f"    {said}" in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_the_lines_of_the_readme_take_rows_with_images_to_a_model_that_loads(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several answers to a question about each image, of which some were liked."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## From rows to a model")[2].partition("## ")[0]
    lines = re.findall(r"^    ktodata (.*)$", section, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["preprocess", "train"]
    for name, first, count in (("train.jsonl", 0, 6), ("eval.jsonl", 6, 2)):
        write_jsonl(
            tmp_path / name, [row for number in range(first, first + count) for row in answers(tmp_path, number)]
        )
    (tmp_path / "MODEL").symlink_to(tiny_model("qwen2_5_vl"))
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert main(shlex.split(line)) == ExitCode.OK, line
    AutoProcessor.from_pretrained("RUN")
    AutoModelForImageTextToText.from_pretrained("RUN")
    trained, before = (load_file(f"{folder}/model.safetensors") for folder in ("RUN", "MODEL"))
    assert any(not trained[name].equal(value) for name, value in before.items())


def answers(folder: Path, number: int) -> list[dict[str, object]]:
    image = make_image(folder / "images" / f"{number}.jpg", 100 + 20 * number, 120, noise_seed=number)
    texts = (
        "two phones and a plug",
        f"panel {number} is drawn by hand",
        "a charger",
        f"it has {number} parts, all odd",
    )
    return [
        make_record(
            messages=[
                {"role": "user", "content": f"<image>What is odd about picture {number}?"},
                {"role": "assistant", "content": text},
            ],
            images=[str(image.relative_to(folder))],
            label=bool(place % 2),
        )
        for place, text in enumerate(texts)
    ]

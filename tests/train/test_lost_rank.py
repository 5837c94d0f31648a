"""Two processes of which one fails: what it found wrong is what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from caches import image_records, make_cache
from conftest import TinyModel
from test_launch import command

from kto_data.cli import main
from kto_data.errors import ExitCode
from kto_train import load_cache
from kto_train.dataset import read_rows
from kto_train.groups import build_groups
from kto_train.step_rows import StepRows

pytestmark = pytest.mark.slow


def rows_of_the_second_process(cache: Path, *, step: int) -> list[int]:
    groups = build_groups(read_rows(load_cache(cache)["train"]), batch_size=2, seed=0, num_ranks=2)
    return StepRows(groups, 0, 2).of(step, step)[2:]


def test_what_any_process_finds_wrong_is_told_with_its_exit_code(
    tiny_model: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    records = image_records(tmp_path, 8)
    cache = make_cache(tmp_path, tiny_model("llava"), records)
    row = next(row for row in rows_of_the_second_process(cache, step=2) if records[row]["images"])
    image = tmp_path / records[row]["images"][0]
    image.unlink()
    settings = ["--set=reference=live", "--set=kto.dataloader_num_workers=0"]
    assert main(command(cache, tiny_model("llava"), tmp_path / "run", *settings)) == ExitCode.USAGE
    said = capfd.readouterr().err
    assert f"error: train.jsonl:{row + 1}: the image {image} is not there" in said
    assert "Traceback" not in said
    assert said.count("error: ") == 1

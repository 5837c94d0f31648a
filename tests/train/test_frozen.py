"""Parts of a model that are left as they are, named by patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caches import image_records, make_cache
from conftest import TinyModel
from safetensors.torch import load_file
from test_train_cli import make_config

from kto_data.errors import ConfigError, ExitCode
from kto_train.plan import make_plan
from kto_train.train import run

pytestmark = pytest.mark.slow

PARTS = ["vision_tower", "projector"]


@pytest.fixture(scope="module")
def image_cache(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frozen")
    return make_cache(root, tiny_model("llava"), image_records(root, 8))


def is_frozen(name: str) -> bool:
    return any(part in name for part in PARTS)


def test_frozen_parts_are_saved_as_they_were(image_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = make_config(image_cache, tiny_model("llava"), tmp_path, freeze=PARTS, kto={"max_steps": 2})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model("llava"), tmp_path))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert before.keys() == after.keys()
    assert any(map(is_frozen, before))
    assert changed
    assert not any(map(is_frozen, changed))


def test_frozen_parts_get_no_adapter(image_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = make_config(image_cache, tiny_model("llava"), tmp_path, freeze=PARTS, lora={"r": 4}, kto={"max_steps": 2})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert any(bool(value.any()) for name, value in saved.items() if "lora_B" in name)
    assert not any(map(is_frozen, saved))


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_a_pattern_that_is_found_nowhere_is_refused_before_anything_is_computed(
    lora: dict[str, int] | None, tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 8))
    config = make_config(cache, tiny_model("llava"), tmp_path / "run", freeze=["vision_tour"], lora=lora)
    with pytest.raises(ConfigError, match="freeze: 'vision_tour' is found in no name of the model's weights"):
        run(config, dry_run=False, say=lambda line: None)
    assert not (cache / "reference").exists()
    assert not (tmp_path / "run").exists()


def test_a_pattern_may_name_what_an_adapter_adds(image_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = make_config(image_cache, tiny_model("llava"), tmp_path, freeze=["lora_A"], lora={"r": 4})
    make_plan(config)

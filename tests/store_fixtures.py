"""Fixtures of tests on object storage: an S3 server, an empty bucket, rows with images, and the command.

Modules that want them name this one in `pytest_plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from object_store import Store

from kto_data.cli import main


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.stop()


@pytest.fixture
def s3(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an empty bucket, for this process and those it starts; nothing else is where users have it."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    system = store.empty_bucket()
    yield system
    store.spoil = lambda method, path: ""
    system.clear_instance_cache()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve rows, with and without images; two of the images lie twice under other names."""
    folder = tmp_path / "data"
    rows = []
    for i in range(12):
        images = [] if i % 4 == 3 else [f"images/{i % 5}.png"]
        text = "<image>What is it?" if images else "What is it?"
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"Shape {i}."}]
        rows.append(make_record(messages=messages, images=images, label=i % 2 == 0, id=i))
    for i in range(5):
        make_image(folder / f"images/{i}.png", 60 + 10 * (i % 3), 50, noise_seed=i % 3)
    return write_jsonl(folder / "train.jsonl", rows)


@pytest.fixture
def fixed_options(tiny_model: TinyModel) -> list[str]:
    """Options of `preprocess` that are the same in every run: three shards of the twelve rows."""
    return ["--model", str(tiny_model("llava_next")), "--shard-rows", "4", "--jobs", "1"]


@pytest.fixture
def preprocess(fixed_options: list[str]) -> Callable[..., int]:
    def preprocess(data: str | Path, output: str | Path, *options: str) -> int:
        return main(["preprocess", str(data), "--output", str(output), *fixed_options, "--quiet", *options])

    return preprocess

"""The committed example data is what its script makes, and what its names say."""

from __future__ import annotations

import json
from pathlib import Path

import make_example
import pytest
from PIL import Image, ImageOps

EXAMPLES = Path(make_example.__file__).parent
SCENES = (*make_example.TRAIN_SCENES, *make_example.EVAL_SCENES)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    make_example.write(folder)
    return folder


@pytest.mark.parametrize("name", ["shapes/train.jsonl", "shapes/eval.jsonl", "broken.jsonl"])
def test_the_committed_rows_are_current(fresh: Path, name: str) -> None:
    assert (EXAMPLES / name).read_bytes() == (fresh / name).read_bytes()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.file)
def test_the_committed_images_are_current(fresh: Path, scene: make_example.Scene) -> None:
    # Pixels, not bytes: how well a file is packed is the image library's own business.
    with Image.open(EXAMPLES / "shapes" / scene.image) as ours, Image.open(fresh / "shapes" / scene.image) as theirs:
        assert ImageOps.exif_transpose(ours).size == scene.size
        assert ours.mode == theirs.mode
        assert ours.resize((8, 8)).tobytes() == pytest.approx(theirs.resize((8, 8)).tobytes(), abs=8)


def test_the_splits_share_no_image_and_all_images_are_used() -> None:
    used = {
        name: {
            image
            for line in (EXAMPLES / "shapes" / f"{name}.jsonl").read_text().splitlines()
            for image in json.loads(line).get("images", [])
        }
        for name in ("train", "eval")
    }
    assert used["train"].isdisjoint(used["eval"])
    assert used["train"] | used["eval"] == {scene.image for scene in SCENES}

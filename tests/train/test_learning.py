"""That something is learnt: the colour of a drawn image, from a cache, asked of images that were not trained on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import make_cache
from conftest import TinyModel, make_image
from test_loss_equality import make_args

from kto_train import CachedKTOTrainer, load_cache

pytestmark = pytest.mark.slow

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "yellow": (230, 220, 40)}
HELD_OUT = 32


def draw(root: Path, name: str, colour: str, rng: random.Random) -> str:
    shade = tuple(value + rng.randrange(-20, 21) for value in COLOURS[colour])
    make_image(root / name, 28, 28, color=shade)
    return name


def question(image: str, answer: str, *, label: bool) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "<image>What colour is it?"},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "images": [image], "label": label}


def train_records(root: Path, *, shuffled: bool) -> list[dict[str, Any]]:
    """Half of the answers are right; `shuffled`: of an image that was there before the images were exchanged."""
    rng = random.Random(0)
    records = []
    for i in range(64):
        colour = rng.choice(list(COLOURS))
        answer = colour if i % 2 == 0 else rng.choice([other for other in COLOURS if other != colour])
        records.append(question(draw(root, f"images/{i}.png", colour, rng), answer, label=i % 2 == 0))
    if shuffled:
        images = [record["images"] for record in records]
        rng.shuffle(images)
        records = [{**record, "images": image} for record, image in zip(records, images, strict=True)]
    return records


def held_out_records(root: Path) -> list[dict[str, Any]]:
    """Each image with each answer."""
    rng = random.Random(1)
    colours = [list(COLOURS)[i % len(COLOURS)] for i in range(HELD_OUT)]
    images = [draw(root, f"images/held-out-{i}.png", colour, rng) for i, colour in enumerate(colours)]
    return [
        question(image, answer, label=answer == colour)
        for image, colour in zip(images, colours, strict=True)
        for answer in COLOURS
    ]


def asked(trainer: CachedKTOTrainer) -> tuple[float, float]:
    """Of the held-out images: the log-probability of the right answer above the mean of the wrong ones, and the share
    of images whose right answer is the likeliest."""
    trainer.model.eval()
    batch = trainer.data_collator(list(trainer.cache["eval"]))
    found, _ = trainer.compute_ref_log_probs(trainer.model, batch)
    found = found.cpu().view(HELD_OUT, len(COLOURS))
    place = torch.arange(HELD_OUT)
    right = found[place, place % len(COLOURS)]
    wrong = (found.sum(dim=1) - right) / (len(COLOURS) - 1)
    return float((right - wrong).mean()), float((found.argmax(dim=1) == place % len(COLOURS)).float().mean())


@pytest.mark.parametrize("shuffled", [False, True], ids=["", "shuffled images"])
def test_the_colour_of_unseen_images_is_learnt_and_not_where_images_are_shuffled(
    shuffled: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("llava")
    cache = make_cache(tmp_path, model, train_records(tmp_path, shuffled=shuffled), held_out_records(tmp_path))
    args = make_args(
        tmp_path / "run",
        precompute_ref_log_probs=True,
        beta=0.5,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        num_train_epochs=10,
        per_device_train_batch_size=16,
        desirable_weight=1.0,
    )
    trainer = CachedKTOTrainer(str(model), cache=load_cache(cache), args=args)
    margin_before, _ = asked(trainer)
    trainer.train()
    margin, share_right = asked(trainer)
    if shuffled:  # what 64 pairs by chance have in common is learnt too: a little better than one in four
        assert share_right <= 0.6
        assert margin - margin_before < 7
    else:
        assert share_right >= 0.9
        assert margin - margin_before > 15

"""Every tiny model is a whole model folder, and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from conftest import TinyModel

QUESTION = "What colour is the square?"


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("name", tiny_models.IMAGE_FAMILIES + tiny_models.REFUSED_FAMILIES)
def test_an_image_family_loads_and_runs_forward(tiny_model: TinyModel, name: str) -> None:
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tiny_model(name)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    batch = processor(text=[text], images=[[Image.new("RGB", (64, 40), "red")]], return_tensors="pt").to(model.dtype)
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape[:2] == batch["input_ids"].shape
    assert logits.std() > 0.1
    assert folder_bytes(folder) < 1_000_000


@pytest.mark.parametrize("name", tiny_models.TEXT_FAMILIES)
def test_a_text_family_loads_and_runs_forward(tiny_model: TinyModel, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    batch = tokenizer(QUESTION, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.std() > 0.1
    assert folder_bytes(folder) < 1_000_000


def test_the_text_template_renders_tools(tiny_model: TinyModel) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model("text"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tools=[{"name": "look"}], tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.\n\nYou may call these tools:\n"
        '{"name": "look"}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
    )


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second, other = (
        tiny_models.build("text", tmp_path / folder, seed=seed) for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    assert (first / weights).read_bytes() != (other / weights).read_bytes()

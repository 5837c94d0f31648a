"""Tiny random models of many families, made on the spot: what tests and the demo train where nothing can be fetched.

    python examples/tiny_models.py llava demo-out/model

Each is a whole model folder of under a megabyte (weights, tokenizer, processor, chat template) that loads with
`AutoProcessor` or `AutoTokenizer` and the matching auto model. The weights are noise: such a model says nothing
sensible, but it tokenizes, counts image tokens, computes a loss and learns exactly as its big relatives do.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tiny_families import gemma, glm, idefics, internvl, llama, llava, pixtral, qwen, text
from tiny_families.pieces import Parts

WEIGHT_SCALE = 0.15  # the usual 0.02 leaves all log-probs of so small a model alike

_TEXT_FAMILIES: dict[str, Callable[[], Parts]] = {
    "text": text.text,
    "llama3": text.llama3,
    "gemma": text.gemma,
    "gpt2": text.gpt2,
}
_IMAGE_FAMILIES: dict[str, Callable[[], Parts]] = {
    "llava": llava.llava,
    "llava_next": llava.llava_next,
    "llava_onevision": llava.llava_onevision,
    "pixtral": pixtral.pixtral,
    "idefics3": idefics.idefics3,
    "smolvlm": idefics.smolvlm,
    "gemma3": gemma.gemma3,
    "internvl": internvl.internvl,
    "aya_vision": internvl.aya_vision,
    "llama4": llama.llama4,
    "qwen2_vl": qwen.qwen2_vl,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "glm4v": glm.glm4v,
}
_REFUSED_FAMILIES: dict[str, Callable[[], Parts]] = {"paligemma": gemma.paligemma, "mllama": llama.mllama}
_FAMILIES = _TEXT_FAMILIES | _IMAGE_FAMILIES | _REFUSED_FAMILIES

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
TEXT_FAMILIES: tuple[str, ...] = tuple(_TEXT_FAMILIES)
IMAGE_FAMILIES: tuple[str, ...] = tuple(_IMAGE_FAMILIES)
REFUSED_FAMILIES: tuple[str, ...] = tuple(_REFUSED_FAMILIES)
"""Families with images whose ids cannot be made from the sizes of the images: `ktodata` refuses them by name."""


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the model of the family `name` to `folder`, and return `folder`. The same seed gives the same weights."""
    processor, model = _FAMILIES[name]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random model folder.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    # That a processor does without torchvision is what is wanted here, and a bar for half a megabyte is noise.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)  # greets who imports it
    print(build(arguments.family, arguments.folder))


if __name__ == "__main__":
    main()

"""Models with random weights, built on the spot, large enough that their arithmetic is what a step costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from tiny_families import llava, qwen
from tiny_families.pieces import Parts

VOCABULARY = 8192
"""Rows of the embeddings of small models. The tokenizer has fewer tokens; those never seen cost as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model, and the rows it is measured on."""

    build: Callable[[], Parts]
    image_sides: tuple[int, ...]  # pixels; an image has any two of them
    words: tuple[int, int]  # of a completion: least and most
    about: str


def llava_next(*, text: dict[str, int], vision: dict[str, int], tile: int = 84) -> Parts:
    """LLaVA-NeXT with another width and depth: one to five tiles an image, of `tile` pixels a side (84: 36 tokens)."""
    processor, small = llava.llava_next()
    grids = [[tile, 2 * tile], [2 * tile, tile], [2 * tile, 2 * tile]]
    images = processor.image_processor
    images.size, images.crop_size = {"shortest_edge": tile}, {"height": tile, "width": tile}
    images.image_grid_pinpoints = grids
    processor.patch_size = 14
    config = small.config
    config.text_config.update({"vocab_size": VOCABULARY, "head_dim": 64, **text})
    config.vision_config.update({"image_size": tile, "patch_size": 14, **vision})
    config.image_grid_pinpoints, config.image_seq_length = grids, (tile // 14) ** 2
    return processor, transformers.LlavaNextForConditionalGeneration(config)


def _llava_next_small() -> Parts:
    text = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
    return llava_next(text=text | heads, vision=vision)


def _llava_next_100_million() -> Parts:
    text = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 12}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
    return llava_next(text=text | heads, vision=vision)


def _llava_next_billion() -> Parts:
    text = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32_000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return llava_next(text=text | heads, vision=vision, tile=336)


def qwen2_5_vl(*, text: dict[str, int], vision: dict[str, int], mrope_section: list[int], max_tokens: int) -> Parts:
    """Qwen2.5-VL with another width and depth; `max_tokens` of an image at most."""
    processor, small = qwen.qwen2_5_vl()
    processor.image_processor.size = {"shortest_edge": 4 * 28 * 28, "longest_edge": max_tokens * 28 * 28}
    config = small.config
    config.text_config.update(text)
    config.text_config.rope_parameters["mrope_section"] = mrope_section
    config.text_config.layer_types = ["full_attention"] * text["num_hidden_layers"]
    depth = vision["depth"]
    config.vision_config.update(
        {
            "out_hidden_size": text["hidden_size"],
            "fullatt_block_indexes": list(range(depth // 4 - 1, depth, depth // 4)),
            **vision,
        }
    )
    return processor, transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen_tiny() -> Parts:
    text = {"vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
    return qwen2_5_vl(text=text | heads, vision=vision, mrope_section=[4, 6, 6], max_tokens=64)


def _qwen_half_billion() -> Parts:
    text = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    heads = {"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32_768}
    vision = {"depth": 16, "hidden_size": 640, "intermediate_size": 1712, "num_heads": 8}
    return qwen2_5_vl(text=text | heads, vision=vision, mrope_section=[8, 12, 12], max_tokens=1024)


def _qwen_two_billion() -> Parts:
    text = {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32_768}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    return qwen2_5_vl(text=text | heads, vision=vision, mrope_section=[16, 24, 24], max_tokens=1024)


_LARGE = {"image_sides": (224, 448, 672, 896), "words": (10, 400)}
SHAPES: dict[str, Shape] = {
    "llava-next": Shape(
        build=_llava_next_small,
        image_sides=(60, 84, 120, 168, 240),
        words=(4, 60),
        about="LLaVA-NeXT, for a processor",
    ),
    "llava-next-100m": Shape(
        build=_llava_next_100_million,
        image_sides=(60, 84),
        words=(4, 12),
        about="large beside a process, whose peak memory shows it",
    ),
    "llava-next-1b": Shape(
        build=_llava_next_billion, about="a billion weights, few kernels a layer, for a GPU", **_LARGE
    ),
    "qwen2.5-vl-tiny": Shape(
        build=_qwen_tiny, image_sides=(56, 112, 168, 224), words=(4, 80), about="rehearses the large ones"
    ),
    "qwen2.5-vl-0.5b": Shape(build=_qwen_half_billion, about="half a billion weights, for a GPU", **_LARGE),
    "qwen2.5-vl-2b": Shape(build=_qwen_two_billion, about="two billion weights, for a GPU", **_LARGE),
}


def save(name: str, folder: Path) -> int:
    """Write the model `name` to `folder`; how many weights it has."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    with device:
        processor, model = SHAPES[name].build()
    processor.save_pretrained(folder)
    (model if device.type == "cpu" else model.bfloat16()).save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"{save(options.shape, options.folder):,} weights")

"""The pixels that a model sees: the budget of LLaMA-Factory, and RGB of every kind of image."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from kto_data.image import PixelBudget, load_for_training, load_upright, to_rgb

SIDES = st.integers(1, 5000)


def size_in_llama_factory(width: int, height: int, max_pixels: int, min_pixels: int) -> tuple[int, int]:
    """Over the bound, then under it, each side is multiplied by sqrt(bound / area) and cut to whole pixels."""
    area = width * height
    if area > max_pixels:
        width, height = int(width * math.sqrt(max_pixels / area)), int(height * math.sqrt(max_pixels / area))
    assume(min(width, height) > 0)  # LLaMA-Factory stops at an image of no pixels; here such a side has one
    area = width * height
    if area < min_pixels:
        width, height = int(width * math.sqrt(min_pixels / area)), int(height * math.sqrt(min_pixels / area))
    return width, height


@given(SIDES, SIDES, st.integers(1, 10**7), st.integers(1, 10**4))
@example(1536, 768, 768 * 768, 32 * 32)
@example(5000, 3, 768 * 768, 32 * 32)
@example(49, 49, 1, 1)
def test_the_budget_scales_as_llama_factory_does(width: int, height: int, max_pixels: int, min_pixels: int) -> None:
    expected = size_in_llama_factory(width, height, max_pixels, min_pixels)
    assert PixelBudget(min_pixels=min_pixels, max_pixels=max_pixels).fit(width, height) == expected


@given(SIDES, SIDES, st.integers(1, 10**7))
def test_a_scaled_side_is_that_of_whole_number_arithmetic(width: int, height: int, max_pixels: int) -> None:
    fitted = PixelBudget(max_pixels=max_pixels).fit(width, height)
    exact = (math.isqrt(width * max_pixels // height), math.isqrt(height * max_pixels // width))
    if width * height <= max_pixels:
        assert fitted == (width, height)
    else:  # a square root of floats may end just below the whole number that it is
        assert all(max(1, side - 1) <= found <= max(1, side) for found, side in zip(fitted, exact, strict=True))


@given(SIDES, SIDES, st.integers(1, 10**7), st.integers(1, 10**4))
def test_no_image_leaves_the_pixel_budget_from_above(width: int, height: int, max_pixels: int, min_pixels: int) -> None:
    max_pixels = max(max_pixels, min_pixels)
    fitted = PixelBudget(min_pixels=min_pixels, max_pixels=max_pixels).fit(width, height)
    assert min(fitted) >= 1
    # A side that would be no pixel at all is one: so thin an image may stay over a tiny budget.
    assert fitted[0] * fitted[1] <= max_pixels or min(fitted) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    # Worked out by hand: sqrt(589824 / area) times each side, truncated.
    [((1536, 768), (1086, 543)), ((768, 768), (768, 768)), ((2000, 1000), (1086, 543)), ((16, 16), (32, 32))],
)
def test_the_budget_gives_the_sizes_worked_out_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert PixelBudget(min_pixels=32 * 32, max_pixels=768 * 768).fit(*size) == expected


def drawn(mode: str) -> Image.Image:
    """An image of many colours, with every degree of transparency where the mode has any."""
    channels = [
        (np.add.outer(np.arange(16), 3 * np.arange(16)) * step % 256).astype(np.uint8) for step in (5, 7, 11, 13)
    ]
    return Image.merge("RGBA", [Image.fromarray(channel) for channel in channels]).convert(mode)


def saved(image: Image.Image, path: Path, **options: Any) -> Image.Image:
    image.save(path, **options)
    return load_upright(path)


def test_every_kind_of_image_becomes_the_rgb_of_transformers(tmp_path: Path) -> None:
    palette = drawn("RGB").quantize(16)
    images = {
        "grey": saved(drawn("L"), tmp_path / "l.png"),
        "one bit": saved(drawn("1"), tmp_path / "1.png"),
        "grey and alpha": saved(drawn("LA"), tmp_path / "la.png"),
        "alpha": saved(drawn("RGBA"), tmp_path / "rgba.png"),
        "alpha in webp": saved(drawn("RGBA"), tmp_path / "rgba.webp", lossless=True),
        "a transparent colour": saved(drawn("RGB"), tmp_path / "rgb.png", transparency=(0, 0, 0)),
        "a transparent grey": saved(drawn("L"), tmp_path / "lt.png", transparency=0),
        "palette": saved(palette, tmp_path / "p.png"),
        "palette with one transparent colour": saved(palette, tmp_path / "pt.gif", transparency=3),
        "palette with alpha": saved(palette, tmp_path / "pa.png", transparency=bytes(range(0, 256, 16))),
        "colours of a printer": saved(drawn("RGB").convert("CMYK"), tmp_path / "cmyk.jpg"),
        "colours of a printer in tiff": saved(drawn("RGB").convert("CMYK"), tmp_path / "cmyk.tiff"),
        "YCbCr": saved(drawn("RGB").convert("YCbCr"), tmp_path / "ycbcr.tiff"),
    }
    assert {image.mode for image in images.values()} >= {"L", "1", "LA", "RGBA", "RGB", "P", "CMYK"}
    for name, image in images.items():
        found = to_rgb(image)
        assert found.mode == "RGB", name
        assert np.array_equal(np.asarray(found), convert_to_rgb(image, return_numpy=True)), name


def test_transparency_goes_on_white() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (1, 1), (0, 128))).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (1, 1), 3)
    palette.info["transparency"] = 3
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def greys(image: Image.Image) -> list[int]:
    return np.asarray(to_rgb(image))[0, :, 0].tolist()


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 128, 129, 256, 32768, 65535]], dtype=np.uint16)).save(path)
    assert Image.open(path).mode in ("I;16", "I")
    assert greys(load_upright(path)) == [0, 0, 1, 1, 128, 255]
    assert load_for_training(path, (6, 1)).getpixel((5, 0)) == (255, 255, 255)


def test_sixteen_bits_of_grey_and_of_colour_are_as_bright(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of each 16-bit channel; to the nearest, that is at most one step away."""
    values = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    (tmp_path / "colour.png").write_bytes(png_of_16_bit_colour(np.repeat(values[..., None], 3, axis=2)))
    colour = load_upright(tmp_path / "colour.png")
    assert colour.mode == "RGB"
    assert greys(colour) == greys(Image.fromarray(values)) == list(range(256))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 255, 65535, -5], np.int32, [0, 1, 255, 0]),
        ([0, 65536, 131072, -5], np.int32, [0, 128, 255, 0]),
        ([0.0, 0.5, 1.0, -1.0], np.float32, [0, 128, 255, 0]),
        ([0.0, 0.5, 128.0, 255.0], np.float32, [0, 1, 128, 255]),
        ([0.0, 257.0, 32768.0, 65535.0], np.float32, [0, 1, 128, 255]),
        ([0.0, 5e5, 1e6, -1.0], np.float32, [0, 128, 255, 0]),
    ],
)
def test_deeper_pixels_are_scaled_to_their_white(
    tmp_path: Path, values: list[float], dtype: Any, expected: list[int]
) -> None:
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / "deep.tiff")
    image = load_upright(tmp_path / "deep.tiff")
    assert image.mode in ("I", "F")
    assert greys(image) == expected


def png_of_16_bit_colour(pixels: np.ndarray[Any, Any]) -> bytes:
    """A PNG of `pixels`, (height, width, 3): Pillow writes none of that depth."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

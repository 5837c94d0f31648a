"""Bounds on the pixels of an image, and the size that an image has within them."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_MAX_PIXELS = 16_777_216
"""Pixels above which an image is pointed out where no budget is given (4096 x 4096)."""
DEFAULT_MIN_PIXELS = 784
"""Pixels under which an image is pointed out where no budget is given (28 x 28, one merged patch of many models)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelBudget:
    """Bounds on the pixels of one image; None is no bound."""

    min_pixels: int | None = None
    max_pixels: int | None = None

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) within the budget.

        Scales by sqrt(max_pixels / area) or sqrt(min_pixels / area) with the aspect ratio kept and both sides
        truncated to whole pixels: the arithmetic of LLaMA-Factory's `image_max_pixels` and `image_min_pixels`, so that
        the same two numbers give the same sizes. A side never falls under one pixel.
        """
        if self.max_pixels is not None and width * height > self.max_pixels:
            factor = math.sqrt(self.max_pixels / (width * height))
            width, height = max(1, int(width * factor)), max(1, int(height * factor))
        if self.min_pixels is not None and width * height < self.min_pixels:
            factor = math.sqrt(self.min_pixels / (width * height))
            width, height = int(width * factor), int(height * factor)
        return width, height

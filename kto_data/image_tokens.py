"""What an image of a size becomes in the text: asked of a model's processor, worked out where that can be trusted.

Nothing here knows a model family, and no pixel of the data is looked at: processors are asked with blank images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kto_data import image
from kto_data.errors import ModelError

_NUM_CHECKED_SIZES = 3
"""Distinct sizes for which the processor's own count must equal a blank image's before the count alone is believed."""
_PROBES = ((64, 64), (1000, 600))
"""Sizes, one within a tile and one beyond, of which a processor is asked whether the number of images matters."""
_BLANK_OPTIONS = {"do_rescale": False, "do_normalize": False}
"""What is left out for blank images: arithmetic on the values of pixels, which decides no token."""


@dataclass(frozen=True, slots=True)
class Run:
    """The token that an image repeats in the text, and its one id."""

    token: str
    id: int

    def shorten(self, text: str) -> tuple[str, list[int]]:
        """`text` with each run of the token written once, and the lengths of the runs, in order."""
        lengths: list[int] = []

        def once(match: re.Match[str]) -> str:
            lengths.append(len(match.group()) // len(self.token))
            return self.token

        return re.sub(f"(?:{re.escape(self.token)})+", once, text), lengths

    def lengthen(self, ids: list[int], lengths: list[int]) -> list[int]:
        """`ids` with each occurrence of the token repeated as often as its run was long."""
        remaining = iter(lengths)
        long: list[int] = []
        for index in ids:
            if index == self.id:
                long += [index] * next(remaining)
            else:
                long.append(index)
        return long


class SizeCounting:
    """Answers "what does an image of this size become", by blank images, or by the processor's own count.

    A blank image costs what a real one costs. transformers' processors can also count (`_get_num_multimodal_tokens`);
    the count is believed once it has agreed with a blank image on the first `_NUM_CHECKED_SIZES` distinct sizes, if
    all of them became one run of one token with the same text around it. Where an image becomes rows and columns of
    tiles instead, image processors can tell their numbers (`get_number_of_image_patches`), and one blank image is
    enough for all sizes of the same numbers. After that both are still checked at every power of four of distinct
    sizes met.
    """

    def __init__(self, processing_class: Any) -> None:
        self._processor = processing_class
        # Not every processor can count: then blank images do all.
        self._count = getattr(processing_class, "_get_num_multimodal_tokens", None)
        self._grid = getattr(processing_class.image_processor, "get_number_of_image_patches", None)
        self._by_grid: dict[tuple[int, ...], str] = {}
        self._num_sizes = 0
        self._frame: tuple[str, str, str] | None = None  # text before the run, the token of the run, text behind

    def replacement(self, size: tuple[int, int], num_images: int = 1) -> str:
        """The text that the placeholder of an image of `size` (width, height) is replaced with, as one of the
        `num_images` images of its row (see `number_matters`)."""
        if num_images > 1:
            return self._from_blanks([size] * num_images)[0]
        self._num_sizes += 1
        worked_out = self._work_out(size)
        if worked_out is None:
            return self._learn(size)
        if _is_power_of_four(self._num_sizes) and worked_out != self._from_blank(size):
            raise ModelError(
                f"{type(self._processor).__name__} is wrong about the tokens of a {size[0]}x{size[1]} image",
                hint="this is a fault of the model's processor in transformers; please report it with the image size",
            )
        return worked_out

    @cached_property
    def number_matters(self) -> bool:
        """Whether an image becomes something else among others of its row than alone: some processors cut only single
        images into tiles.

        Raises `ModelError` where it depends on which images the others are.
        """
        together = self._from_blanks(_PROBES)
        if together == [self._from_blank(size) for size in _PROBES]:
            return False
        if together != [self._from_blanks([size] * len(_PROBES))[0] for size in _PROBES]:
            raise ModelError(
                f"{type(self._processor).__name__} gives an image other tokens beside other images",
                hint="tokens of its images cannot be known from their sizes: use data with one image a row",
            )
        return True

    def _work_out(self, size: tuple[int, int]) -> str | None:
        """The replacement by numbers alone; None where they do not tell."""
        if self._count is not None:
            return self._from_count(size) if self._num_sizes > _NUM_CHECKED_SIZES else None
        grid = self._numbers(size)
        return None if grid is None else self._by_grid.get(grid)

    def _learn(self, size: tuple[int, int]) -> str:
        """The replacement by a blank image, and what it says about the numbers."""
        answer = self._from_blank(size)
        if self._count is not None and not self._agrees(answer, size):
            self._count = None
        grid = self._numbers(size)
        if grid is not None:
            self._by_grid[grid] = answer
        return answer

    def _numbers(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """Tiles, rows and columns of an image; None where the image processor tells less than that."""
        if self._grid is None:
            return None
        width, height = size
        numbers = self._grid(height, width, {})
        return tuple(int(number) for number in numbers) if isinstance(numbers, tuple) and len(numbers) >= 3 else None

    def _from_blank(self, size: tuple[int, int]) -> str:
        return self._from_blanks([size])[0]

    def _from_blanks(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """What images of these sizes become, all in one row."""
        out = self._processor(
            images=[[image.blank(size) for size in sizes]],
            text=[self._processor.image_token * len(sizes)],
            add_special_tokens=False,
            return_text_replacement_offsets=True,
            **_BLANK_OPTIONS,
        )
        found = out["text_replacement_offsets"][0]
        assert len(found) == len(sizes)
        return [str(one["replacement"]) for one in found]

    def _from_count(self, size: tuple[int, int]) -> str:
        assert self._frame is not None
        before, token, behind = self._frame
        return before + token * self._counted(size) + behind

    def _counted(self, size: tuple[int, int]) -> int:
        assert self._count is not None
        width, height = size
        return int(self._count(image_sizes=[(height, width)])["num_image_tokens"][0])

    def _agrees(self, answer: str, size: tuple[int, int]) -> bool:
        token = most_repeated(answer, self._processor.tokenizer)
        run = re.search(f"(?:{re.escape(token)})+", answer)
        if run is None or self._counted(size) * len(token) != len(run.group()):
            return False
        frame = (answer[: run.start()], token, answer[run.end() :])
        self._frame = self._frame or frame
        return token not in frame[2] and frame == self._frame


def _is_power_of_four(number: int) -> bool:
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


def most_repeated(text: str, tokenizer: Any) -> str:
    """The added token that occurs most often in `text`."""
    best: str = max((token.content for token in tokenizer.added_tokens_decoder.values()), key=text.count)
    return best

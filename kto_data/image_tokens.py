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
from kto_data.errors import ModelError, first_line

_NUM_CHECKED_SIZES = 3
"""Distinct sizes for which the processor's own count must equal a blank image's before the count alone is believed."""
_PROBES = ((64, 64), (1000, 600))
"""Sizes, one within a tile and one beyond, of which a processor is asked whether more than the size matters."""
_LEAST_SIDE, _MOST_RATIO = 8, 100
"""Images with a shorter side (pixels), or so many times as long as wide, are always asked for: some processors refuse
them, though they can count their tokens."""
_NUM_GRID_NUMBERS = 3  # tiles, rows, columns
_PROBE_TEXT = "What is in this picture?"
_NOT_BY_TRL = "another model: TRL tokenizes prompt and completion each alone, and cannot train this one"
_BLANK_OPTIONS = {"do_rescale": False, "do_normalize": False}
"""What is left out for blank images: arithmetic on the values of pixels, which decides no token."""


@dataclass(frozen=True, slots=True)
class Run:
    """The token that an image repeats in the text, and its one id."""

    token: str
    id: int

    def shorten(self, text: str) -> tuple[str, list[int]]:
        """`text` with each run of the token written once, and the lengths of the runs, in order."""
        number, size = text.count(self.token), len(self.token)
        if not number:
            return text, []
        first, last = text.find(self.token), text.rfind(self.token)
        if last - first == (number - 1) * size:  # one run, as most rows have: told at once
            return text[:first] + text[last:], [number]
        lengths: list[int] = []

        def once(match: re.Match[str]) -> str:
            lengths.append(len(match.group()) // size)
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
    all of them became one run of one token with the same text around it. Where an image becomes tiles instead, image
    processors can tell how many (`get_number_of_image_patches`). One blank image is enough for all sizes of the same
    numbers of rows and columns; a number of tiles alone is believed once images of the same number, one of them the
    other one turned if there are such, became the same. After that all is still checked at every power of four of
    distinct sizes met, and an image of an odd shape is always asked for.
    """

    def __init__(self, processing_class: Any) -> None:
        self._processor = processing_class
        self._name = type(processing_class).__name__
        # Not every processor can count: then blank images do all.
        self._count = getattr(processing_class, "_get_num_multimodal_tokens", None)
        self._grid = getattr(processing_class.image_processor, "get_number_of_image_patches", None)
        self._by_grid: dict[tuple[int, ...], str] = {}
        self._unproven: dict[tuple[int, ...], str] = {}  # of one size alone, by a number that hides the arrangement
        self._num_sizes = 0
        self._num_agreed = 0  # sizes of which the count was right, all so far
        self._frame: tuple[str, str, str] | None = None  # text before the run, the token of the run, text behind

    def replacement(self, size: tuple[int, int], num_images: int = 1) -> str:
        """The text that the placeholder of an image of `size` (width, height) is replaced with, as one of the
        `num_images` images of its row (see `number_matters`).

        Raises `ValueError` where the processor refuses the size, and `ModelError` where it is wrong about it.
        """
        if num_images > 1:
            return self._from_blanks([size] * num_images)[0]
        self._num_sizes += 1
        worked_out = self._work_out(size)
        if worked_out is None:
            return self._learn(size)
        if _is_power_of_four(self._num_sizes) and worked_out != self._from_blank(size):
            raise ModelError(
                f"{self._name} is wrong about the tokens of a {size[0]}x{size[1]} image",
                hint="this is a fault of the model's processor in transformers; please report it with the image size",
            )
        return worked_out

    def check(self) -> None:
        """Raises `ModelError` where the processor does not say what an image becomes, makes something else of another
        picture of the same size, or does more to a text than to put that in the place of each image."""
        try:
            self._check_texts()
            is_told = all(self._from_blank(size) == self._from_pictures([image.noise(size)])[0] for size in _PROBES)
        except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:  # no hook, no answer
            raise ModelError(
                f"{self._name} does not say what it makes of an image: {first_line(error)}",
                hint="another model, or rows without images and a text model",
            ) from None
        if not is_told:
            raise ModelError(
                f"{self._name} makes something else of another picture of the same size",
                hint="another model: the tokens of this one's images cannot be known from their sizes",
            )

    def _check_texts(self) -> None:
        # By itself, as completions are tokenized in TRL's collator.
        try:
            alone = self._processor(text=[_PROBE_TEXT], add_special_tokens=False)["input_ids"][0]
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self._name} takes no text without images: {first_line(error)}", hint=_NOT_BY_TRL
            ) from None
        if not self._is_tokenized_as(alone, _PROBE_TEXT):
            raise ModelError(f"{self._name} writes more into a text than is in it", hint=_NOT_BY_TRL)
        size = _PROBES[0]
        around = self._ask([image.blank(size)], _PROBE_TEXT + self._processor.image_token + _PROBE_TEXT)
        if not self._is_tokenized_as(around["input_ids"][0], _PROBE_TEXT + self._from_blank(size) + _PROBE_TEXT):
            raise ModelError(f"{self._name} writes more into a text than its images", hint=_NOT_BY_TRL)

    def _is_tokenized_as(self, ids: Sequence[int], text: str) -> bool:
        expected: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids) == expected

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
                f"{self._name} gives an image other tokens beside other images",
                hint="data with one image a row: tokens of several cannot be known from their sizes",
            )
        return True

    def _work_out(self, size: tuple[int, int]) -> str | None:
        """The replacement by numbers alone; None where they do not tell, or the processor may refuse the size."""
        if min(size) < _LEAST_SIDE or max(size) > _MOST_RATIO * min(size):
            return None
        if self._count is not None:
            return self._from_count(size) if self._num_agreed >= _NUM_CHECKED_SIZES else None
        grid = self._numbers(size) if self._by_grid else None
        return None if grid is None else self._by_grid.get(grid)

    def _learn(self, size: tuple[int, int]) -> str:
        """The replacement by a blank image, and what it says about the numbers."""
        answer = self._from_blank(size)
        if self._count is None:
            self._learn_grid(size, answer)
        elif self._agrees(answer, size):
            self._num_agreed += 1
        else:
            self._count = None
        return answer

    def _learn_grid(self, size: tuple[int, int], answer: str) -> None:
        grid = self._numbers(size)
        if grid is None:
            return
        if len(grid) >= _NUM_GRID_NUMBERS:
            self._by_grid[grid] = answer
            return
        if grid not in self._unproven:
            self._unproven[grid] = answer
            turned = (size[1], size[0])
            if turned == size or self._numbers(turned) != grid:
                return
            size, answer = turned, self._from_blank(turned)
        if self._unproven[grid] == answer:
            self._by_grid[grid] = answer
        else:
            self._grid = None

    def _numbers(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """How many tiles an image has, and in how many rows and columns where the image processor tells."""
        if self._grid is None:
            return None
        width, height = size
        numbers = self._grid(height, width, self._image_options)
        return tuple(map(int, numbers)) if isinstance(numbers, tuple) else (int(numbers),)

    @cached_property
    def _image_options(self) -> dict[str, Any]:
        """What the processor tells its image processor, over that one's own settings."""
        merged = self._processor._merge_kwargs(tokenizer_init_kwargs=self._processor.tokenizer.init_kwargs)
        options: dict[str, Any] = merged["images_kwargs"]
        return options

    def _from_blank(self, size: tuple[int, int]) -> str:
        return self._from_blanks([size])[0]

    def _from_blanks(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """What images of these sizes become, all in one row."""
        return self._from_pictures([image.blank(size) for size in sizes])

    def _from_pictures(self, pictures: Sequence[Any]) -> list[str]:
        out = self._ask(pictures, self._processor.image_token * len(pictures))
        found = out["text_replacement_offsets"][0]
        assert len(found) == len(pictures)
        return [str(one["replacement"]) for one in found]

    def _ask(self, pictures: Sequence[Any], text: str) -> Any:
        try:
            return self._processor(
                images=[list(pictures)],
                text=[text],
                add_special_tokens=False,
                return_text_replacement_offsets=True,
                **_BLANK_OPTIONS,
            )
        except (ArithmeticError, RuntimeError) as error:  # what comes of a side of no pixels
            raise ValueError(first_line(error)) from error

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
        try:
            num_counted = self._counted(size)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return False
        if run is None or num_counted * len(token) != len(run.group()):
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

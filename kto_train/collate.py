"""Rows of the cache to a batch of tensors, as TRL's loss reads it.

Ids come from the cache, pixels from the image files through the model's own processor. Every key that the processor
makes of images goes into the batch: models differ in what they ask for, and nothing here knows a model family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kto_data import image
from kto_data.choices import PackImages
from kto_data.errors import CacheError, InputError, ModelError
from kto_data.processor import Processor
from kto_train.columns import (
    ATTENTION_MASK,
    COMPLETION_IDS,
    COMPLETION_MASK,
    IMAGE_REFS,
    INPUT_IDS,
    KL_PREFIX,
    LABEL,
    PROMPT_IDS,
    REF_KL_LOGPS,
    REF_LOGPS,
    SOURCE,
    TOKEN_TYPE_KEYS,
)
from kto_train.images import ImageFiles

Row = Mapping[str, Any]
Batch = dict[str, torch.Tensor]

_PROBE_SIZE = (64, 64)  # pixels, of the blank image that a processor is asked about its keys with
_CANNOT = "this model cannot be trained from a cache"


class CachedCollator:
    """Makes a batch of one KL group; the rows are left as they are.

    `image_root` is where image paths start, or, where the cache has packed them (`pack_images`), its folder of images:
    both as `load_cache` says.

    The KL sequences pair each prompt with the completion of the row before it, cyclically. Where such a sequence is
    over `max_length` tokens, that completion loses its tail, in this sequence alone: how many do is known beforehand
    (`Groups.num_cut`). A row itself is never cut.

    Raises `ModelError` when the processor's token types cannot be rebuilt from ids.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        image_root: Path | str,
        pack_images: PackImages = "none",
        max_length: int | None = None,
        with_kl: bool = True,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.pad_token_id = _pad_token_id(processor)
        self.max_length = max_length
        self.with_kl = with_kl
        self.pad_to_multiple_of = pad_to_multiple_of
        self.pixels = _Pixels(processor, ImageFiles(image_root, pack_images)) if processor.has_images else None

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """The batch of `rows`; raises `InputError` and `CacheError` naming the row and the image at fault."""
        token_types = self.pixels.token_types if self.pixels else None
        batch = self._sequences([row[PROMPT_IDS] for row in rows], [row[COMPLETION_IDS] for row in rows], token_types)
        if self.with_kl:
            partners = [rows[place - 1] for place in range(len(rows))]
            completions = [
                self._fitting(row[PROMPT_IDS], partner[COMPLETION_IDS])
                for row, partner in zip(rows, partners, strict=True)
            ]
            kl = self._sequences([row[PROMPT_IDS] for row in rows], completions, token_types)
            batch |= {KL_PREFIX + key: value for key, value in kl.items()}
        if self.pixels is not None:
            batch |= self.pixels.load(rows)
        for key in (REF_LOGPS, REF_KL_LOGPS):
            if key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows])
        batch[LABEL] = torch.tensor([row[LABEL] for row in rows])
        return batch

    def _fitting(self, prompt: Sequence[int], completion: Sequence[int]) -> Sequence[int]:
        return completion if self.max_length is None else completion[: self.max_length - len(prompt)]

    def _sequences(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], token_types: _TokenTypes | None
    ) -> Batch:
        """The keys with one value a token, each (rows, longest sequence), padded on the right."""
        ids = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        in_completion = [[0] * len(p) + [1] * len(c) for p, c in zip(prompts, completions, strict=True)]
        batch = {
            INPUT_IDS: self._padded(ids, self.pad_token_id),
            ATTENTION_MASK: self._padded([[1] * len(row) for row in ids], 0),
            COMPLETION_MASK: self._padded(in_completion, 0),
        }
        if token_types is not None and token_types.keys:
            # A completion has no images: `preprocess` refuses one that holds the model's image token.
            types = [token_types.of(p) + [0] * len(c) for p, c in zip(prompts, completions, strict=True)]
            batch |= {key: self._padded(types, 0) for key in token_types.keys}
        return batch

    def _padded(self, rows: list[list[int]], value: int) -> torch.Tensor:
        width = max(map(len, rows))
        multiple = self.pad_to_multiple_of or 1
        width = -(-width // multiple) * multiple
        return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.int64)


class _Pixels:
    """Image files to what the model's processor makes of them."""

    def __init__(self, processor: Processor, files: ImageFiles) -> None:
        self.processor = processor
        self.files = files
        probe = self._process([[image.blank(_PROBE_SIZE)]])
        text_alone = processor.processing_class(text=["a"], padding=True, return_tensors="pt")
        self.text_keys = frozenset(text_alone)
        self.token_types = _TokenTypes(processor, probe, self.text_keys)

    def load(self, rows: Sequence[Row]) -> Batch:
        """The processor's keys for the images of `rows`; none where no row has an image."""
        images = [[self._open(row, ref) for ref in row[IMAGE_REFS]] for row in rows]
        if not any(images):
            return {}
        made = self._process(images)
        self._check_counts(rows, made[INPUT_IDS])
        return {key: value for key, value in made.items() if key not in self.text_keys}

    def _process(self, images: list[list[Any]]) -> dict[str, Any]:
        made = self.processor.processing_class(
            images=images,
            text=[self.processor.image_token * len(of_row) for of_row in images],
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        )
        return dict(made)

    def _open(self, row: Row, ref: Mapping[str, Any]) -> Any:
        try:
            return self.files.load(ref)
        except FileNotFoundError:
            raise InputError(
                f"{source_of(row)}: the image {self.files.path(ref)} is not there", hint=self.files.hint
            ) from None
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(
                f"{source_of(row)}: the image {self.files.path(ref)} cannot be read: {error}", hint=self.files.hint
            ) from None

    def _check_counts(self, rows: Sequence[Row], ids: torch.Tensor) -> None:
        for row, made in zip(rows, ids.tolist(), strict=True):
            cached, found = self.token_types.count_images(row[PROMPT_IDS]), self.token_types.count_images(made)
            if found != cached:
                paths = ", ".join(ref["path"] for ref in row[IMAGE_REFS])
                raise CacheError(
                    f"{source_of(row)}: {paths}: {found} image tokens now, and {cached} in the cache",
                    hint="the image or the processor has changed: run `ktodata preprocess` again",
                )


def image_backend(processor: Processor) -> str | None:
    """The image processor's class: transformers takes another one where torchvision is missing, and pixels differ."""
    return type(processor.processing_class.image_processor).__name__ if processor.has_images else None


class _TokenTypes:
    """What kind each token is (0 for text), as the processor tells from ids; `keys` are those it puts this under."""

    def __init__(self, processor: Processor, probe: Mapping[str, Any], text_keys: frozenset[str]) -> None:
        self.processing_class = processor.processing_class
        self.keys = tuple(sorted(text_keys - {INPUT_IDS, ATTENTION_MASK}))
        ids = probe[INPUT_IDS][0].tolist()
        told = frozenset(self.processing_class.image_token_ids)
        if told.isdisjoint(ids):
            raise ModelError(f"{processor.name} does not tell its image tokens from others", hint=_CANNOT)
        # Some processors tell of the placeholder alone; features go where an image repeats one of the added tokens.
        added = Counter(token for token in ids if token in processor.tokenizer.added_tokens_decoder)
        self.image_ids = told | {token for token, _ in added.most_common(1)}
        for key in self.keys:
            if key not in TOKEN_TYPE_KEYS or self.of(ids) != probe[key][0].tolist():
                raise ModelError(
                    f"{processor.name} makes {key!r} of a text in a way that ids do not tell", hint=_CANNOT
                )

    def of(self, ids: Sequence[int]) -> list[int]:
        """The kind of each token."""
        kinds: list[int] = self.processing_class.create_mm_token_type_ids([list(ids)])[0]
        return kinds

    def count_images(self, ids: Sequence[int]) -> int:
        """How many of the tokens a feature of an image is put in place of."""
        return sum(token in self.image_ids for token in ids)


def _pad_token_id(processor: Processor) -> int:
    # As TRL: where the tokenizer has no padding token, its end-of-sequence token pads.
    tokenizer = processor.tokenizer
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise ModelError(f"the tokenizer of {processor.model} has neither a padding nor an end-of-sequence token")
    return int(found)


def source_of(row: Row) -> str:
    """Where a row of a cache is from, as `file:line`."""
    return f"{row[SOURCE]['file']}:{row[SOURCE]['line']}"

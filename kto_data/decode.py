"""Ids back to text: what a cached row feeds the model, as a person can read it.

ids + images ─▶ Decoded (prompt and completion, each as pieces: text, special tokens, images)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kto_data.encode import Encoded, ImageRef
from kto_data.processor import Processor
from kto_data.template import common_prefix_length


class PieceKind(StrEnum):
    """What a piece of a sequence is."""

    TEXT = "text"
    SPECIAL = "special"  # a token of the model's own, such as the end of a message
    IMAGE = "image"  # all that one image became


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece. Pieces of a sequence, put together, are its text."""

    kind: PieceKind
    text: str
    image: ImageRef | None = None  # of an image


@dataclass(frozen=True, slots=True)
class Decoded:
    """A row as pieces."""

    prompt: tuple[Piece, ...]
    completion: tuple[Piece, ...]

    @property
    def num_placed(self) -> int:
        """How many images were found among the ids."""
        return sum(piece.kind is PieceKind.IMAGE for piece in self.prompt)


def decode(processor: Processor, row: Encoded) -> Decoded:
    """The pieces of a row that was made with this processor.

    Where an image lies is not in the cache: what the processor makes of one of its size is looked for among the ids. An
    image that is not found so is left as the tokens that stand there.
    """
    ids = [*row.prompt_ids, *row.completion_ids]
    whole = processor.detokenize(ids)

    def at(num_ids: int) -> int:
        """Where in the text the first `num_ids` ids end. Not the length of their own text: a decoder may treat the
        beginning of a text, or half a character at its end, in a way of its own."""
        return len(whole) if num_ids == len(ids) else common_prefix_length(whole, processor.detokenize(ids[:num_ids]))

    pieces: list[Piece] = []
    done = 0
    for start, end, image in _image_places(processor, row):
        first, last = at(start), at(end)
        pieces += _split_text(processor, whole[done:first])
        pieces.append(Piece(PieceKind.IMAGE, whole[first:last], image))
        done = last
    middle = at(len(row.prompt_ids))
    pieces += _split_text(processor, whole[done:middle])
    return Decoded(tuple(pieces), tuple(_split_text(processor, whole[middle:])))


def _image_places(processor: Processor, row: Encoded) -> Iterator[tuple[int, int, ImageRef]]:
    """(first id, id behind the last one, image) of each image, in order."""
    position = 0
    for image in row.images:
        span = processor.image_span((image.width, image.height), len(row.images))
        (wanted,) = processor.tokenize([span.replacement])
        found = _find(row.prompt_ids, wanted, position)
        if found is not None:
            position = found + len(wanted)
            yield found, position, image


def _find(ids: Sequence[int], wanted: list[int], start: int) -> int | None:
    """Where `wanted` stands in `ids`, from `start` on."""
    for index in range(start, len(ids) - len(wanted) + 1):
        if ids[index] == wanted[0] and list(ids[index : index + len(wanted)]) == wanted:
            return index
    return None


def _split_text(processor: Processor, text: str) -> Iterator[Piece]:
    done = 0
    for match in processor.special_tokens.finditer(text):
        if match.start() > done:
            yield Piece(PieceKind.TEXT, text[done : match.start()])
        yield Piece(PieceKind.SPECIAL, match.group())
        done = match.end()
    if done < len(text):
        yield Piece(PieceKind.TEXT, text[done:])

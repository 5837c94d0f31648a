"""How alike two samples are, from 128 bytes of each: MinHash signatures. The home of rensa, an extra.

A signature has 64 bytes for the prompt and 64 for the completion. Each byte is one of 256 with which a random order of
all possible shingles (runs of 8 characters) begins for this text; two texts agree in a byte with the probability of
their Jaccard similarity, the share of common shingles among all of both (Broder, "On the resemblance and containment
of documents", 1997; that a few bits of each minimum are enough: Li and König, "b-Bit Minwise Hashing", 2010).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import xxhash

from kto_data.digest import join_digests
from kto_data.repeats import Keys

NUMBERS = 16
"""64-bit numbers in a signature: eight for the prompt, eight for the completion."""

ALIKE = 0.85
"""The similarity, of prompt and of completion each, from which on two samples are nearly the same."""

_SHINGLE = 8  # characters
_HALF = 64  # bytes
_SEED = 1997


def is_available() -> bool:
    """Whether the extra is installed."""
    return find_spec("rensa") is not None


def signature(prompt: str, images: Sequence[str], completion: str) -> array[int]:
    """The signature of a sample: `NUMBERS` numbers. Samples with other images are like no two texts at all."""
    mask = xxhash.xxh3_128_digest("\0".join(images).encode(errors="surrogatepass")) * 4 if images else bytes(_HALF)
    left = int.from_bytes(_half(prompt), "big") ^ int.from_bytes(mask, "big")
    numbers = array("Q")
    numbers.frombytes(left.to_bytes(_HALF, "big") + _half(completion))
    return numbers


def near_duplicates(signatures: memoryview[int], wholes: Keys) -> Iterator[tuple[int, int, float]]:
    """(row, an earlier row, similarity) of each row that is nearly, and not quite, what an earlier one is.

    `wholes` tells which rows are quite the same. Two rows are compared where an eighth of their signatures agrees in
    both halves, which of rows alike by 0.92 nine in ten have; each with the first of those that agree in it.
    """
    found: dict[int, tuple[int, float]] = {}
    num_rows = len(signatures) // NUMBERS
    for band in range(NUMBERS // 2):
        prompts, completions = signatures[band::NUMBERS], signatures[band + NUMBERS // 2 :: NUMBERS]
        keys = Keys(array("Q", map(join_digests, prompts, completions)), bytes(num_rows))
        first: dict[int, int] = {}
        for row in keys.repeated_rows():
            earlier = first.setdefault(keys.column[row], row)
            if earlier == row or row in found or wholes.column[row] == wholes.column[earlier]:
                continue
            likeness = _similarity(signatures, row, earlier)
            if likeness >= ALIKE:
                found[row] = (earlier, likeness)
    for row in sorted(found):
        yield row, *found[row]


def _half(text: str) -> bytes:
    from rensa import RMinHash

    text = " ".join(text.casefold().split())
    shingles = {text[start : start + _SHINGLE] for start in range(max(1, len(text) - _SHINGLE + 1))}
    minima = RMinHash(num_perm=_HALF, seed=_SEED)
    minima.update([shingle.encode(errors="surrogatepass") for shingle in shingles])
    return bytes(minimum & 0xFF for minimum in minima.digest())


def _similarity(signatures: memoryview[int], row: int, other: int) -> float:
    """The smaller of the two similarities: of the prompts, and of the completions."""
    one, two = (signatures[index * NUMBERS : (index + 1) * NUMBERS].tobytes() for index in (row, other))
    agree = [left == right for left, right in zip(one, two, strict=True)]
    return min(sum(agree[:_HALF]), sum(agree[_HALF:])) / _HALF

"""Texts to ids, by the fastest tokenizer that makes the same of them: the only home of fastokens.

A model's own tokenizer is the reference. fastokens makes the same ids many times faster, but takes seconds to load a
large vocabulary, does not know every kind of tokenizer, and is wrong about a few. So it is loaded where there is much
text, or once much has gone by, and believed while it agrees: on probes, on texts at hand, and on a sample of all that
follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np

FAST_AFTER_CHARS = 2_500_000
"""Characters that the reference takes about as long for as fastokens takes to load."""
_AT_ONCE_AFTER_CHARS = 20_000  # whose ids by the reference are the first that those of fastokens are compared with
_RENEWED_AFTER_CHARS = 250_000_000  # fastokens remembers each word that it has seen, and forgets none
_CHECKED_ONE_IN = 32  # texts of which one goes to both tokenizers

_BLOCK = 128  # characters of a probe
_PROBED_RANGES = ((0x0, 0xD800), (0xE000, 0x10000), (0x1E000, 0x1FB00))  # the basic plane without surrogates, emoji
_WORDS = (
    "", " ", "  a  b ", "\n\n a\r\n\tb\n", "don't DON'T we'll it\u2019s", "12345 1,234.5 1e-9",
    "fooBar foo_bar-baz://x.y?z=1&w", "e\u0301 \u00e9 \ufb01 \uff21 \u1100\u1161\u11a8 \u0130\u0131",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f7e5\U0001f3fd", "x" * 300, "=" * 90,
    "\u00a0a\u3000b\u2028c", "\u2581a \u2581",
)  # fmt: skip
_ASKING = {"__call__": "PreTrainedTokenizerBase.__call__", "_encode_plus": "TokenizersBackend._encode_plus"}
"""What a tokenizer of transformers does with a text before its backend has it, by whose methods: those of another class
may do more."""
_MAX_ADDED = 200  # added tokens that are tried each by itself


def fast_after(num_chars: int | None, jobs: int = 1) -> int | None:
    """After how many characters fastokens is to be tried by each of the processes that make ids of about `num_chars`.

    At once where it will pay, and never (None) where it will not. Of None, which is what nobody knows, as soon as it
    would have paid, which costs at most twice the better of the two.
    """
    if num_chars is None:
        return FAST_AFTER_CHARS
    # Loaded, it still takes a tenth of the reference's time, and the reference's own on a sample.
    return _AT_ONCE_AFTER_CHARS if num_chars / jobs * 0.8 > FAST_AFTER_CHARS else None


class WrongIdsError(Exception):
    """fastokens turned out to be wrong after ids of its making were given out."""


class TextIds:
    """The ids of texts, with no special tokens added. They are always the reference's where `has_erred` is false.

    `reference` is a tokenizer of transformers, `fast_after` the number of characters after which fastokens is tried
    (None for never), `probes` are texts to try it on instead of the usual ones.
    """

    def __init__(
        self,
        reference: Any,
        *,
        fast_after: int | None = FAST_AFTER_CHARS,
        probes: Sequence[str] | None = None,
    ) -> None:
        self._reference = reference
        self._backend = _plain_backend(reference)
        self._fast: Any = None
        self._fast_after = fast_after
        self._probes = probes
        self._num_chars = 0
        self._num_fast_chars = 0  # since fastokens was loaded
        self._num_checks = 0
        self.engine = "tokenizers"
        """What makes the ids, and why not fastokens where it was tried."""
        self.has_erred = False
        """Whether ids were given out by a fastokens that was found wrong later."""

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if not texts:
            return []
        if self._fast is not None:
            quick = self._fast_ids(texts)
            if quick is not None:
                return quick
        ids = self._reference_ids(texts)
        self._num_chars += sum(map(len, texts))
        if self._fast_after is not None and self._num_chars >= self._fast_after:
            self._fast_after = None  # it is tried once
            self._try_fastokens(texts, ids)
        return ids

    def _reference_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._backend is not None:
            self._backend.no_truncation()  # left behind by whoever called last
            self._backend.no_padding()
            self._backend.encode_special_tokens = bool(getattr(self._reference, "split_special_tokens", False))
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        # Not verbose: whether a text is too long is judged by us.
        encoded = self._reference(list(texts), add_special_tokens=False, padding=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _try_fastokens(self, texts: Sequence[str], ids: list[list[int]]) -> None:
        """Take up fastokens if it agrees about probes, and about `texts`, whose ids are known."""
        self._fast = self._load()
        if self._fast is None:
            return
        probes = _probes(self._reference) if self._probes is None else self._probes
        expected = [*self._reference_ids(probes), *ids] if probes else ids
        self._compare([*probes, *texts], expected)

    def _load(self) -> Any:
        try:
            import fastokens
        except ImportError:
            self.engine = "tokenizers (fastokens is not installed)"
            return None
        backend = getattr(self._reference, "backend_tokenizer", None)
        if backend is None or getattr(self._reference, "split_special_tokens", False):
            self.engine = "tokenizers (this tokenizer is not one that fastokens reads)"
            return None
        try:
            fast = fastokens.Tokenizer.from_json_str(backend.to_str())
        except ValueError as error:
            self.engine = f"tokenizers (fastokens refuses this one: {error})"
            return None
        fast.no_truncation()  # left behind in the reference by whoever called last
        fast.no_padding()
        self.engine = f"fastokens {version('fastokens')}"
        self._num_fast_chars = 0
        return fast

    def _fast_ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        """The ids by fastokens; None where it fails, or is found wrong about a text of the sample."""
        if self._num_fast_chars >= _RENEWED_AFTER_CHARS:
            self._fast = None  # two of them would take twice the memory
            self._fast = self._load()
            if self._fast is None:
                return None
        self._num_fast_chars += sum(map(len, texts))
        ids = self._encode(texts)
        if ids is None:
            return None
        # Few texts are checked all; of many another part each time.
        step = _CHECKED_ONE_IN if len(texts) >= _CHECKED_ONE_IN else 1
        start = self._num_checks % step
        self._num_checks += 1
        sample = texts[start::step]
        self.has_erred = not self._agrees(sample, ids[start::step], self._reference_ids(sample))
        return None if self.has_erred else ids

    def _compare(self, texts: Sequence[str], expected: list[list[int]]) -> None:
        ids = self._encode(texts)
        if ids is not None:
            self._agrees(texts, ids, expected)

    def _agrees(self, texts: Sequence[str], ids: list[list[int]], expected: list[list[int]]) -> bool:
        """Whether fastokens made what the reference makes; if not, it is given up."""
        for text, found, right in zip(texts, ids, expected, strict=True):
            if found != right:
                self._give_up(f"fastokens makes other ids of {_first_difference(text, found, right)}")
                return False
        return True

    def _encode(self, texts: Sequence[str]) -> list[list[int]] | None:
        try:
            flat, ends = self._fast.encode_batch_flat(list(texts))
        except ValueError as error:
            self._give_up(f"fastokens fails: {error}")
            return None
        ids = np.frombuffer(flat, "<u4")
        places = np.frombuffer(ends, "<u8").tolist()
        return [ids[start:stop].tolist() for start, stop in pairwise(places)]

    def _give_up(self, reason: str) -> None:
        self._fast = None
        self.engine = f"tokenizers ({reason})"


def _plain_backend(reference: Any) -> Any:
    """What makes the ids of a tokenizer of transformers, asked without what transformers adds to each text in vain;
    None where the tokenizer is of a class that does more than ask it."""
    methods = ((getattr(type(reference), name, None), whose) for name, whose in _ASKING.items())
    is_plain = all(getattr(method, "__qualname__", "") == whose for method, whose in methods)
    return reference.backend_tokenizer if is_plain else None


def _probes(reference: Any) -> list[str]:
    """Texts on which tokenizers are known to part: every character of the basic plane, white space, added tokens."""
    blocks = [
        "".join(f"{chr(code)}a" for code in range(start, min(start + _BLOCK, stop)))
        for first, stop in _PROBED_RANGES
        for start in range(first, stop, _BLOCK)
    ]
    added = [token.content for token in reference.added_tokens_decoder.values()][:_MAX_ADDED]
    return [*_WORDS, *blocks, *(f"{token}a {token} b{token}\n{token}{token}" for token in added)]


def _first_difference(text: str, found: Sequence[int], right: Sequence[int]) -> str:
    place = next((at for at, pair in enumerate(zip(found, right, strict=False)) if pair[0] != pair[1]), len(right))
    return f"a text of {len(text):,} characters, from id {place:,} on"

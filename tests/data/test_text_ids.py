"""Ids never depend on what makes them: fastokens is believed while it agrees with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from conftest import TinyModel
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kto_data import text_ids
from kto_data.processor import load_processor
from kto_data.text_ids import FAST_AFTER_CHARS, TextIds, fast_after

TEXTS = ["The quick brown fox", "", "  white \n\n space\t", "naïve café 这是什么 🟥", "don't 12345", "x" * 200] * 20
ODD = "Mongolian\u180evowel separator"
"""Of old a white space, and to the tokenizers' regular expressions still one; not so to those of fastokens."""


def tokenizer(*, splits: str = "", normalizer: Any = None, added: Iterable[AddedToken] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on a few words, which leaves out what `splits` matches."""
    backend = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.Split(Regex(splits), "removed")] if splits else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def reference_ids(reference: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = reference(texts, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("family", ["text", "llava", "qwen2_5_vl", "gemma3", "idefics3"])
def test_ids_are_the_same_with_and_without_fastokens(tiny_model: TinyModel, family: str) -> None:
    reference: Any = load_processor(tiny_model(family)).tokenizer
    ids = TextIds(reference, fast_after=0)
    texts = [*TEXTS, ODD, *(f"a {token}{token} b" for token in reference.all_special_tokens)]
    assert ids.of(texts[:1]) == reference_ids(reference, texts[:1])  # and from here on by fastokens, if it may
    assert ids.of(texts) == reference_ids(reference, texts)
    assert not ids.has_erred


def test_fastokens_is_taken_up_after_as_much_text_as_it_takes_to_load() -> None:
    ids = TextIds(tokenizer(), fast_after=500)
    ids.of(["x" * 499])
    assert ids.engine == "tokenizers"
    ids.of(["y"])
    assert ids.engine.startswith("fastokens 0.")


def test_fastokens_forgets_the_words_that_it_has_seen_and_makes_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps them all as long as it lives: 30 bytes of each word that is not repeated."""
    monkeypatch.setattr(text_ids, "_RENEWED_AFTER_CHARS", 10)
    reference = tokenizer()
    ids = TextIds(reference, fast_after=0)
    ids.of(["taken up"])
    first = ids._fast
    for texts in (["0123456789"], ["more"], ["and more"]):
        assert ids.of(texts) == reference_ids(reference, texts)
    assert ids._fast is not first
    assert ids.engine.startswith("fastokens 0.")


def test_fastokens_is_taken_up_at_once_where_there_is_enough_text_to_pay_for_it_and_else_never() -> None:
    assert fast_after(FAST_AFTER_CHARS) is None
    assert fast_after(2 * FAST_AFTER_CHARS, jobs=2) is None
    assert fast_after(0) is None
    soon = fast_after(2 * FAST_AFTER_CHARS)
    assert soon is not None
    assert soon < FAST_AFTER_CHARS / 100
    assert fast_after(None) == FAST_AFTER_CHARS  # how much there is nobody knows


def test_added_tokens_that_swallow_white_space_are_the_same() -> None:
    reference = tokenizer(added=[AddedToken("<a>", lstrip=True), AddedToken("<b>", rstrip=True, single_word=True)])
    ids = TextIds(reference, fast_after=0)
    texts = ["x", "1  <a>  2", "1  <b>  2", "1<b>2 <a><b> \n<b>\n"]
    for _ in range(2):
        assert ids.of(texts) == reference_ids(reference, texts)
    assert ids.engine.startswith("fastokens")


def test_a_tokenizer_that_fastokens_does_not_know_stays_with_its_own() -> None:
    reference = tokenizer(normalizer=normalizers.NFKC())
    ids = TextIds(reference, fast_after=0)
    for _ in range(2):
        assert ids.of(TEXTS) == reference_ids(reference, TEXTS)
    assert "refuses" in ids.engine
    assert "NFKC" in ids.engine


def test_a_tokenizer_that_fastokens_reads_wrongly_is_found_by_probes() -> None:
    reference = tokenizer(splits=r"\s")
    ids = TextIds(reference, fast_after=0)
    assert ids.of(TEXTS) == reference_ids(reference, TEXTS)
    assert ids.engine.startswith("tokenizers (fastokens makes other ids")
    assert ids.of([ODD]) == reference_ids(reference, [ODD])
    assert not ids.has_erred


def test_a_difference_that_only_real_texts_show_ends_the_use_of_fastokens_for_good() -> None:
    reference = tokenizer(splits=r"\s")
    ids = TextIds(reference, fast_after=0, probes=["hello world"])
    ids.of(TEXTS)
    assert ids.engine.startswith("fastokens")
    texts = [f"{ODD} {number}" for number in range(100)]
    assert ids.of(texts) == reference_ids(reference, texts)
    assert ids.has_erred
    assert ids.engine.startswith("tokenizers (fastokens makes other ids")
    assert ids.of([ODD]) == reference_ids(reference, [ODD])


class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc]  # transformers has no types
    """A tokenizer that does more than ask its backend."""

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._encode_plus([one.upper() for one in text], *args, **kwargs)


def test_a_tokenizer_of_a_class_of_its_own_is_asked_itself() -> None:
    reference = Shouting(tokenizer_object=tokenizer().backend_tokenizer)
    assert TextIds(reference, fast_after=None).of(["a quiet text"]) == reference_ids(tokenizer(), ["A QUIET TEXT"])


def test_a_tokenizer_that_takes_special_tokens_apart_does() -> None:
    reference = tokenizer(added=["<end>"])
    whole = TextIds(reference, fast_after=None).of(["a <end>"])
    reference.split_special_tokens = True
    apart = TextIds(reference, fast_after=None).of(["a <end>"])
    assert apart == reference_ids(reference, ["a <end>"])
    assert apart != whole


def test_truncation_and_padding_left_behind_in_a_tokenizer_change_no_id() -> None:
    reference = tokenizer(added=[AddedToken("<pad>")])
    reference.pad_token = "<pad>"
    reference(TEXTS, truncation=True, max_length=2, padding=True)
    ids = TextIds(reference, fast_after=0)
    ids.of(["x"])
    assert ids.of(TEXTS) == reference_ids(tokenizer(added=[AddedToken("<pad>")]), TEXTS)

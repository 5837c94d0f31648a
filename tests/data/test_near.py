from __future__ import annotations

import random
from array import array

import pytest

from kto_data import near
from kto_data.check import CheckSettings
from kto_data.near import NUMBERS, near_duplicates, signature
from kto_data.repeats import Keys
from kto_data.rules.duplicates import near_duplicate

WORDS = [f"word{index}" for index in range(500)]


def text(seed: int, length: int = 120) -> str:
    toss = random.Random(seed)
    return " ".join(toss.choice(WORDS) for _ in range(length))


def found(*samples: tuple[str, list[str], str]) -> list[tuple[int, int]]:
    signatures = array("Q")
    for sample in samples:
        signatures.extend(signature(*sample))
    wholes = Keys(array("Q", [hash(str(sample)) & 0xFFFF_FFFF for sample in samples]), bytes(len(samples)))
    return [(row, earlier) for row, earlier, _ in near_duplicates(signatures, wholes)]


def test_a_signature_has_a_fixed_size_whatever_the_texts_are() -> None:
    for sample in ("", "a", "🦉", "\ud800", text(1)):
        assert len(signature(sample, [], sample)) == NUMBERS


def test_texts_that_differ_in_case_and_spaces_are_near() -> None:
    assert found((text(1), [], text(2)), (f" {text(1).upper()}", [], text(2).replace(" ", "  "))) == [(1, 0)]


def test_both_halves_must_be_near() -> None:
    assert found((text(1), [], text(2)), (text(1), [], text(3)), (text(4), [], text(3))) == []


def test_other_images_are_other_samples() -> None:
    assert found((text(1), ["a.png"], text(2)), (text(1), ["b.png"], text(2))) == []
    assert found((text(1), ["a.png"], text(2)), (text(1) + ".", ["a.png"], text(2))) == [(1, 0)]


def test_the_very_same_is_left_to_another_rule() -> None:
    assert found((text(1), [], text(2)), (text(1), [], text(2))) == []


def test_nearly_all_that_differ_in_a_word_are_found_and_no_others() -> None:
    samples: list[tuple[str, list[str], str]] = [(text(seed), [], text(seed + 1000)) for seed in range(200)]
    near_ones = [(prompt + " indeed", images, completion) for prompt, images, completion in samples]
    pairs = found(*samples, *near_ones)
    assert {(row - 200, earlier) for row, earlier in pairs} <= {(index, index) for index in range(200)}
    assert len(pairs) > 190


def test_without_the_extra_the_rule_is_skipped_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CheckSettings().skip_reason(near_duplicate) == ""
    monkeypatch.setattr(near, "find_spec", lambda name: None)
    assert CheckSettings().skip_reason(near_duplicate) == "needs the package rensa (pip install 'ktodata[near]')"

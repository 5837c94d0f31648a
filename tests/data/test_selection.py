"""Which rules run, and how names are told apart."""

from __future__ import annotations

import pytest

from kto_data import fields
from kto_data.errors import UsageError
from kto_data.record import Message, Record
from kto_data.rules import ALL_RULES
from kto_data.rules.control_tokens import find_control_tokens
from kto_data.rules.selection import find_rules, select_rules
from kto_data.rules.words import edit_distance


def _codes(**options: list[str]) -> list[str]:
    return [rule.code for rule in select_rules(**options)]


def test_default_rules_are_those_on_by_default() -> None:
    assert _codes() == [rule.code for rule in ALL_RULES if rule.default]


def test_select_takes_codes_prefixes_and_names() -> None:
    assert _codes(select=["KTO40", "kto112,empty-prompt"]) == [
        "KTO112",
        "KTO307",
        "KTO401",
        "KTO402",
        "KTO403",
        "KTO404",
        "KTO405",
        "KTO406",
        "KTO407",
    ]


def test_bare_prefix_selects_every_rule() -> None:
    assert _codes(select=["KTO"]) == [rule.code for rule in ALL_RULES]


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ("KTO40", "KTO4", [f"KTO40{digit}" for digit in range(1, 8)]),
        ("KTO4", "KTO40", []),
        ("KTO401", "KTO401", []),
    ],
)
def test_longer_prefix_wins_and_of_equal_ones_the_ignoring(select: str, ignore: str, expected: list[str]) -> None:
    assert _codes(select=[select], ignore=[ignore]) == expected


def test_extend_select_adds_to_the_default_rules() -> None:
    assert set(_codes(extend_select=["KTO307"])) == {*_codes(), "KTO307"}


@pytest.mark.parametrize(
    ("word", "hint"),
    [("KTO35", "did you mean KTO305?"), ("image-not-fund", "did you mean KTO201?"), ("zzz", "ktodata rule --all")],
)
def test_unknown_code_is_refused_with_the_likely_one(word: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        select_rules(select=[word])
    assert hint in caught.value.hint


def test_find_rules_takes_a_name() -> None:
    assert [rule.code for rule in find_rules("exact-duplicate")] == ["KTO601"]


def test_words_of_a_record_are_those_of_its_model() -> None:
    assert tuple(Record.model_fields) == fields.RECORD_FIELDS
    assert tuple(name for name, field in Record.model_fields.items() if field.is_required()) == fields.REQUIRED_FIELDS
    assert tuple(Message.model_fields) == fields.MESSAGE_FIELDS


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("label", "label", 0), ("lable", "label", 1), ("labels", "label", 1), ("level", "label", 2), ("", "ab", 2)],
)
def test_edit_distance_counts_swaps_once(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == distance


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Stop at <|im_end|>, then <|im_end|>", ["<|im_end|>"]),
        ("<start_of_turn>user [INST]", ["<start_of_turn>", "[INST]"]),
        ("<｜User｜>Hi", ["<｜User｜>"]),
        ("Done.</s>", ["</s>"]),
        ("<s>Hi", ["<s>"]),
        ("<s>old</s>", []),  # HTML's strike-through
        ("write </s> to close it", []),
        ("<image> <think> <b> a|b <|odd|> [1] [TODO]", []),
    ],
)
def test_control_tokens_are_found_and_markup_is_left_alone(text: str, tokens: list[str]) -> None:
    assert find_control_tokens(text) == tokens

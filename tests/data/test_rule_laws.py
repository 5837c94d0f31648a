"""What holds of all rules: redacted findings say nothing of the record, order of rows changes nothing, and clean data
has no findings."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_image, make_record, write_jsonl
from test_rules import CASES, FIXTURES, as_line, run_case

from kto_data.check import CheckSettings
from kto_data.fields import ROLES
from kto_data.finding import Finding
from kto_data.image import ImageCheck
from kto_data.inputs import open_inputs
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage
from kto_data.validate import validate

_RULES = {rule.code: rule for rule in ALL_RULES}
_OF_ROWS = (Stage.ROW, Stage.IMAGE, Stage.ROW_IMAGES)
_RECORD_CASES = [(code, name) for code, name in CASES if _RULES[code].stage in _OF_ROWS]

_OURS = {*ROLES, "image", "text", "true", "false", "im_end"}
"""Words that messages use by themselves, and control tokens, which are the same everywhere."""


def _words(value: Any, key: str = "") -> set[str]:
    """The words of four letters and more in the texts and values of a record, keys and image paths left out."""
    if isinstance(value, dict):
        return set().union(*(_words(item, name) for name, item in value.items()))
    if isinstance(value, list):
        return set() if key == "images" else set().union(*(_words(item, key) for item in value))
    return set(re.findall(r"\w{4,}", str(value))) if not isinstance(value, bool) and key != "images" else set()


@pytest.mark.parametrize(("code", "name"), [case for case in _RECORD_CASES if case[1].startswith("fail_")])
def test_redacted_message_has_no_word_of_the_record(code: str, name: str, tmp_path: Path) -> None:
    case = FIXTURES[code][name]
    for finding in run_case(case, code, tmp_path):
        raw = as_line(case["lines"][finding.location.line - 1]) if finding.location.line else b"{}"
        try:
            words = _words(json.loads(raw)) - _OURS
        except ValueError:  # no JSON: anything that stands there may be somebody's
            words = set(re.findall(r"\w{4,}", raw.decode(errors="replace"))) - _OURS - {"messages", "content"}
        redacted = finding.redacted()
        said = f"{redacted.message} {[value for _, value in redacted.data]}"
        assert not {word for word in words if word in said}, said


@pytest.mark.parametrize("code", ["KTO801", "KTO802", "KTO803"])
def test_what_is_private_is_in_no_message_redacted_or_not(code: str, tmp_path: Path) -> None:
    for name, case in FIXTURES[code].items():
        for finding in run_case(case, code, tmp_path / name):
            record = json.loads(as_line(case["lines"][0]))
            said = {finding.message, *(str(value) for _, value in finding.data)}
            texts = [message["content"] for message in record["messages"]]
            pieces = {text[start : start + 5] for text in texts for start in range(len(text) - 4)}
            ordinary = {"the text holds what looks like", "the completion reads like a refusal, and is labelled true"}
            pieces = {piece for piece in pieces if not any(piece in words for words in ordinary)}
            assert not {piece for piece in pieces for words in said if piece in words}


def test_every_quote_is_in_its_message(tmp_path: Path) -> None:
    for index, (code, name) in enumerate(_RECORD_CASES):
        for finding in run_case(FIXTURES[code][name], code, tmp_path / str(index)):
            assert all(quote in finding.message for quote in finding.quotes), finding


def _of_rows(findings: list[Finding]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (f.code, f.severity, f.location.pointer, f.message, f.row_hash, f.fingerprint)
        for f in findings
        if _RULES[f.code].stage in _OF_ROWS
    )


@pytest.mark.parametrize(("code", "name"), _RECORD_CASES)
def test_order_of_rows_changes_no_finding_about_a_row(
    code: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = FIXTURES[code][name]
    monkeypatch.chdir(tmp_path)  # messages have paths in them, which are to be the same
    before = run_case(case, code, tmp_path)
    path = tmp_path / "data.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(code + name).shuffle(lines)
    path.write_bytes(b"".join(lines))
    settings = CheckSettings(
        codes=frozenset(rule.code for rule in ALL_RULES if rule.default) | {code},
        images=ImageCheck(case.get("images_check", "header")),
        row_max_pixels=case.get("row_max_pixels"),
    )
    if "budget" in case or "dataset_info" in case:
        return
    after: list[Finding] = []
    validate(open_inputs([str(path)]), settings, listen=after.extend)
    assert _of_rows(after) == _of_rows(before)


def _turns(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def _clean_rows() -> list[dict[str, Any]]:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    parts = [{"type": "text", "text": "Which of the two "}, {"type": "image"}, {"type": "image"}]
    rows = [
        make_record(messages=_turns(("user", "What is 2 + 2?"), ("assistant", "4"))),
        make_record(messages=_turns(("system", "Be brief."), ("user", "Hi!\n\tReally."), ("assistant", "Hello.\r\n"))),
        make_record(messages=_turns(("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")), id=7),
        make_record(
            messages=_turns(("user", "Rain?"), ("assistant", "I look."), ("tool", "no"), ("assistant", "It is dry.")),
            tools=tools,
        ),
        make_record(messages=_turns(("user", "<image>What is it?"), ("assistant", "A field.")), images=["a.png"]),
        make_record(
            messages=_turns(("user", "<image> or <image>?"), ("assistant", "The first."), ("user", "And <image>?"),
                            ("assistant", "The same.")),
            images=["a.png", "deep/b.jpg", "a.png"], source="web",
        ),
        make_record(messages=_turns(("user", parts), ("assistant", "The left one.")), images=["deep/b.jpg", "c.webp"]),
        make_record(messages=_turns(("user", "Größe in „cm“?"), ("assistant", "Ungefähr 20 °C… äh, 20 cm – “genau”."))),
        make_record(messages=_turns(("user", "日本語で「猫」？"), ("assistant", "ねこ。🐈‍⬛ 👩‍👩‍👧"))),
        make_record(messages=_turns(("user", "ما هذا؟ שלום"), ("assistant", "कमाल है। ไทย Ελληνικά Привет"))),
        make_record(messages=_turns(("user", "Strike <s>this</s>"), ("assistant", "if a < b and c > d: x[1]"))),
        make_record(messages=_turns(("user", "Say \"it\" \\ /"), ("assistant", "{\"a\": [1, \"<b>\"]}")), metadata={}),
        make_record(messages=_turns(("user", "A chat?"), ("assistant", "Write to name@example.org."))),
        make_record(messages=_turns(("user", "Long?"), ("assistant", "word " * 5000 + "end."))),
    ]  # fmt: skip
    # Both labels of each kind, so that nothing but the answer tells them apart.
    twins = [{**row, "messages": [*row["messages"][:-1], _other(row)], "label": False, "id": None} for row in rows]
    return [row for pair in zip(rows, twins, strict=True) for row in pair]


def _other(row: dict[str, Any]) -> dict[str, Any]:
    said = row["messages"][-1]["content"]
    # As long, and by its words and letters no near-duplicate.
    return {"role": "assistant", "content": said[::-1].strip() if len(said) > 1 else "5"}


@pytest.mark.parametrize("images", list(ImageCheck))
def test_clean_data_has_no_finding_whatever_is_selected(images: ImageCheck, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "deep/b.jpg", "c.webp")):
        make_image(tmp_path / name, 64, 48, noise_seed=seed)
    rows = [{key: value for key, value in row.items() if value is not None} for row in _clean_rows()]
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    settings = CheckSettings(codes=frozenset(rule.code for rule in ALL_RULES), images=images)
    found: list[Finding] = []
    validation = validate(open_inputs([str(path)]), settings, listen=found.extend)
    assert found == []
    assert validation.inputs[0].num_rows_ok == len(rows)

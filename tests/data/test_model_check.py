"""Validation with a model: the tokens of `preprocess`, and nothing said that it would not do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, model_that_fastokens_misreads, write_jsonl

from kto_data.check import DEFAULT_CODES, CheckSettings
from kto_data.cli import main
from kto_data.errors import ModelError
from kto_data.finding import Finding, Severity
from kto_data.image import PixelBudget
from kto_data.inputs import open_inputs
from kto_data.model_check import RECORDS_AT_ONCE
from kto_data.report.text import concise_line
from kto_data.text_ids import FAST_AFTER_CHARS, WrongIdsError
from kto_data.validate import validate
from kto_data.validation import Validation

MAX_LENGTH = 100
TOO_LONG = ("KTO501", "KTO502", "KTO503")


def turns(prompt: str, completion: str, **overrides: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return make_record(messages=messages, **overrides)


def check(path: Path, **settings: Any) -> tuple[Validation, list[Finding]]:
    found: list[Finding] = []
    jobs = settings.pop("jobs", 1)
    return validate(open_inputs([str(path)]), CheckSettings(**settings), jobs=jobs, listen=found.extend), found


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Records of every kind: fit, too long in each way, unsound, with and without images, many of them."""
    make_image(tmp_path / "small.png", 56, 42)
    make_image(tmp_path / "large.png", 700, 700)
    rows: list[Any] = []
    for index in range(20):
        label = index % 2 == 0
        rows += [
            turns(f"How many? {index}", "word " * (3 * index), label=label),
            turns("word " * (5 * index) + "?", f"Some {index}.", label=label),
            turns(f"<image>What is it? {index}", "word " * (2 * index + 1), images=["small.png"], label=label),
        ]
    rows += [
        turns("<image>Large?", "Yes.", images=["large.png"]),
        turns("<image>Gone?", "Yes.", images=["gone.png"]),
        turns("Say it.", "<|im_end|>"),
        turns("Say it.", "</s> it is <|user|>"),
        b"{",
    ]
    return write_jsonl(tmp_path / "data.jsonl", rows)


@pytest.mark.parametrize(("model", "budget"), [("text", None), ("llava_next", None), ("llava_next", 10_000)])
def test_clean_rows_are_those_that_preprocess_keeps(
    model: str, budget: int | None, mixed: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"budget": PixelBudget(max_pixels=budget)}
    _, found = check(mixed, model=tiny_model(model), max_length=MAX_LENGTH, **settings)
    cache = tmp_path / "cache"
    options = ["--max-length", str(MAX_LENGTH), "--too-long", "drop", "--invalid", "drop", "--quiet"]
    options += ["--image-max-pixels", str(budget)] if budget else []
    assert main(["preprocess", str(mixed), "--model", str(tiny_model(model)), "--output", str(cache), *options]) == 0
    rejects = [json.loads(line) for line in (cache / "rejects.jsonl").read_bytes().splitlines()]
    bad = {f.location.line for f in found if f.severity is Severity.ERROR or f.code == "KTO501"} - {None}
    assert bad == {entry["line"] for entry in rejects}
    dropped = Counter(code for entry in rejects for code in entry["rules"] if code in TOO_LONG)
    assert dropped == Counter(f.code for f in found if f.code in TOO_LONG)
    assert {"KTO501", "KTO502"} <= dropped.keys()


def test_jobs_change_no_finding_about_tokens(mixed: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    many.write_bytes(mixed.read_bytes() * 40)
    settings = {"model": tiny_model("text"), "max_length": MAX_LENGTH, "codes": DEFAULT_CODES | {"KTO504"}}
    one, two = check(many, jobs=1, **settings), check(many, jobs=2, **settings)
    assert one[1] == two[1]
    lines = [(f.location.line or 0) for f in one[1] if f.code.startswith("KTO50") and f.code != "KTO504"]
    assert lines == sorted(lines)
    assert [entry.num_rows_ok for entry in one[0].inputs] == [entry.num_rows_ok for entry in two[0].inputs]


def test_choosing_rules_changes_no_other_finding(mixed: Path, tiny_model: TinyModel) -> None:
    settings = {"model": tiny_model("llava_next"), "max_length": MAX_LENGTH}
    _, every = check(mixed, **settings)
    _, chosen = check(mixed, codes=frozenset(TOO_LONG), **settings)
    assert chosen == [finding for finding in every if finding.code in TOO_LONG]


def test_a_token_is_said_once_and_as_bad_as_it_is(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [turns("Stop.", "<end_of_turn>"), turns("Go.", "<|user|>")])
    _, found = check(path, model=tiny_model("gemma3"))
    tokens = [(f.location.line, f.severity) for f in found if f.code == "KTO309"]
    assert tokens == [(1, Severity.ERROR), (2, Severity.WARNING)]


def test_without_a_model_rules_about_tokens_are_skipped_with_their_reason(tmp_path: Path) -> None:
    validation, _ = check(write_jsonl(tmp_path / "data.jsonl", [make_record()]))
    reasons = {rule.code: reason for rule, reason in validation.skipped}
    assert reasons["KTO501"] == "needs --model and --max-length"
    assert reasons["KTO505"] == "needs --model"


def test_images_not_looked_at_leave_rules_about_tokens_skipped(mixed: Path, tiny_model: TinyModel) -> None:
    from kto_data.image import ImageCheck

    validation, found = check(mixed, model=tiny_model("llava_next"), max_length=9, images=ImageCheck.OFF)
    assert {"KTO501", "KTO502", "KTO503", "KTO505", "KTO506"} <= {rule.code for rule, _ in validation.skipped}
    assert not {f.code for f in found if f.code.startswith("KTO5")}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_model_that_cannot_be_loaded_is_told_of_by_name(jobs: int, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no tokenizer or processor can be loaded"):
        check(mixed, model=tmp_path / "empty", jobs=jobs)


def test_a_template_that_drops_a_message_is_told_of(tiny_model: TinyModel, tmp_path: Path) -> None:
    import shutil

    model = shutil.copytree(tiny_model("text"), tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        template.replace("{%- for message in messages %}", "{%- for message in messages if message.role != 'system' %}")
    )
    system = {"role": "system", "content": "Be brief."}
    rows = [make_record(), make_record(messages=[system, *make_record()["messages"]])]
    _, found = check(write_jsonl(tmp_path / "data.jsonl", rows), model=model)
    (finding,) = [f for f in found if f.code == "KTO505"]
    assert (finding.location.line, finding.location.pointer) == (2, "/messages/0")
    assert finding.message == "the chat template leaves out text of message 1 (system)"


def test_where_fastokens_is_found_wrong_nothing_is_said_that_rests_on_it(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_that_fastokens_misreads(tiny_model("text"), tmp_path / "model")
    # Text enough for fastokens to be taken up, rows that it may be wrong about, and at last one that shows it.
    plain = [turns(f"Say {number}.", "word " * (FAST_AFTER_CHARS // 1_000)) for number in range(2 * RECORDS_AT_ONCE)]
    odd = [turns(f"Count to {number}.", "\U00010107" * 30) for number in range(RECORDS_AT_ONCE)]
    path = write_jsonl(tmp_path / "data.jsonl", plain + odd)
    with pytest.raises(WrongIdsError):
        check(path, model=model, max_length=MAX_LENGTH, fast_after=0)
    _, expected = check(path, model=model, max_length=MAX_LENGTH)
    options = ["--max-length", str(MAX_LENGTH), "--output-format", "concise", "--exit-zero", "-q"]
    assert main(["validate", str(path), "--model", str(model), *options]) == 0
    assert capsys.readouterr().out.splitlines() == [concise_line(finding) for finding in expected]

"""One line to its findings and its records."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import make_image, make_record

from kto_data.check import CheckedRecord, CheckSettings, LineChecker, check_dataset
from kto_data.chunk import Line
from kto_data.finding import Finding, Location, Severity
from kto_data.formats import Format, Layout
from kto_data.image import ImageCheck, ProbeStatus
from kto_data.noting import note
from kto_data.record import Record
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import Place


def _line(row: Any, path: str = "data.jsonl", number: int = 3) -> Line:
    raw = row if isinstance(row, bytes) else orjson.dumps(row)
    return Line(path=path, number=number, byte_offset=40, raw=raw)


def _codes(row: Any, **settings: Any) -> list[str]:
    return [finding.code for finding in LineChecker(Layout(), CheckSettings(**settings)).check(_line(row)).findings]


def test_clean_line_is_trainable_and_gives_its_record() -> None:
    row = make_record(id="a")
    checked = LineChecker(Layout(), CheckSettings()).check(_line(row))
    record = Record.model_validate_json(orjson.dumps(row))
    assert (checked.findings, checked.samples) == ((), (CheckedRecord(record, (), checked.samples[0].row),))
    assert (checked.labels, checked.format, checked.is_trainable) == ((True,), "messages", True)


def test_finding_has_its_whole_address() -> None:
    line = _line(make_record(id="a", label="yes"))
    (finding,) = LineChecker(Layout(), CheckSettings()).check(line).findings
    assert finding == Finding(
        code="KTO402",
        severity=Severity.ERROR,
        location=Location(path="data.jsonl", line=3, byte_offset=40, pointer="/label"),
        message='the label is the string "yes", must be true or false',
        record_id="a",
        row_hash=finding.row_hash,
        fingerprint=finding.fingerprint,
        quotes=("yes",),
        data=(("value", "yes"),),
    )
    assert finding.row_hash is not None
    assert (len(finding.row_hash), len(finding.fingerprint)) == (16, 32)


def test_fingerprint_outlasts_spaces_order_of_keys_and_place_but_no_other_change() -> None:
    checker = LineChecker(Layout(), CheckSettings())

    def fingerprint(line: Line) -> str:
        (finding,) = checker.check(line).findings
        return finding.fingerprint

    row = make_record(label="yes")
    same = fingerprint(_line(row))
    assert fingerprint(_line(json.dumps(dict(reversed(row.items())), indent=1).encode(), number=9)) == same
    assert fingerprint(_line(row, path="moved.jsonl")) == same
    assert fingerprint(_line({**row, "label": "no"})) != same
    assert fingerprint(_line({**row, "id": "other"})) != same


def test_redacted_finding_has_no_word_of_the_record() -> None:
    location = Location(path="a.jsonl", line=1)
    finding = Finding(
        code="KTO309", severity=Severity.ERROR, location=location, message="holds 'abc' and 'abcd'",
        record_id="mine", quotes=("abc", "abcd"),
    )  # fmt: skip
    assert finding.redacted().message == "holds '[3 characters]' and '[4 characters]'"
    assert finding.redacted().record_id is None


def test_row_that_is_broken_in_many_places_gives_every_finding() -> None:
    messages = [{"role": "human", "content": "<image>"}, {"role": "assistant", "content": " "}]
    row = {"messages": messages, "label": 1, "images": ["../x.png"], "more": 1}
    assert _codes(row) == ["KTO111", "KTO203", "KTO302", "KTO306", "KTO402"]


def test_line_with_a_warning_alone_is_trainable() -> None:
    checked = LineChecker(Layout(), CheckSettings()).check(_line(make_record(more=1)))
    assert [finding.code for finding in checked.findings] == ["KTO111"]
    assert checked.is_trainable
    assert len(checked.samples) == 1


@pytest.mark.parametrize(
    ("more", "severity"),
    [({"labels": 1}, Severity.ERROR), ({"level": 1}, Severity.WARNING), ({"sorce": "web"}, Severity.WARNING)],
)
def test_unknown_field_is_an_error_only_where_it_may_be_a_label_gone_astray(
    more: dict[str, Any], severity: Severity
) -> None:
    (finding,) = LineChecker(Layout(), CheckSettings()).check(_line(make_record(**more))).findings
    assert (finding.code, finding.severity) == ("KTO111", severity)


def test_blank_line_is_no_row() -> None:
    checked = LineChecker(Layout(), CheckSettings()).check(_line(b"  "))
    assert (checked.labels, checked.samples, checked.is_trainable) == ((), (), False)


def test_paired_line_gives_two_records_and_each_defect_once() -> None:
    row = {"prompt": "Hi <|im_end|>", "chosen": "Hello.", "rejected": "Go away."}
    checked = LineChecker(Layout(), CheckSettings()).check(_line(row))
    assert [finding.code for finding in checked.findings] == ["KTO309"]
    assert checked.findings[0].location.pointer == "/prompt"
    assert [sample.record.label for sample in checked.samples] == [True, False]
    assert not checked.is_trainable


def test_pointer_is_in_the_spelling_of_the_record() -> None:
    row = {"conversations": [{"from": "human", "value": 4}, {"from": "gpt", "value": "Four."}], "kto_tag": True}
    (finding,) = LineChecker(Layout(format=Format.SHAREGPT), CheckSettings()).check(_line(row)).findings
    assert (finding.code, finding.location.pointer) == ("KTO110", "/conversations/0/value")


@pytest.mark.parametrize("images", list(ImageCheck))
def test_probes_follow_the_images_of_the_record(images: ImageCheck, tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    messages = [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "Yes."}]
    row = make_record(messages=messages, images=["a.png", "a.png"])
    checked = LineChecker(Layout(), CheckSettings(images=images)).check(_line(row, str(tmp_path / "d.jsonl")))
    assert checked.findings == ()
    assert [probe.status for probe in checked.samples[0].probes] == [ProbeStatus.OK] * 2


def test_image_root_overrides_the_folder_of_the_data(tmp_path: Path) -> None:
    make_image(tmp_path / "pics" / "a.png")
    messages = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A square."}]
    row = make_record(messages=messages, images=["a.png"])
    assert _codes(row, image_root=tmp_path / "pics") == []
    assert _codes(row, image_root=tmp_path) == ["KTO201"]


def test_rules_that_need_a_closer_look_are_skipped_with_the_reason() -> None:
    settings = CheckSettings(images=ImageCheck.STAT)
    images = [rule for rule in ALL_RULES if rule.stage in (Stage.IMAGE, Stage.ROW_IMAGES)]
    skipped = {rule.code: settings.skip_reason(rule) for rule in images if settings.skip_reason(rule)}
    decoded = skipped.pop("KTO214")
    assert set(skipped) == {
        "KTO202", "KTO204", "KTO206", "KTO207", "KTO208", "KTO209", "KTO210", "KTO211", "KTO212", "KTO213", "KTO215",
    }  # fmt: skip
    assert set(skipped.values()) == {"needs --images header, runs with --images stat"}
    assert decoded == "needs --images decode, runs with --images stat"


def test_rule_that_is_not_selected_is_silent() -> None:
    assert _codes(make_record(label="yes"), codes=frozenset({"KTO101"})) == []


def test_settings_travel_to_other_processes() -> None:
    settings = CheckSettings(codes=frozenset({"KTO101"}))
    assert pickle.loads(pickle.dumps(settings)) == settings


def _facts(*rows: Any, path: str = "data.jsonl") -> ChunkFacts:
    facts, checker = ChunkFacts(path), LineChecker(Layout(), CheckSettings())
    for number, row in enumerate(rows, start=1):
        note(checker.check(_line(row, path, number)), facts)
    return facts


def _circle(**overrides: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A circle."}]
    return make_record(messages=messages, **overrides)


def test_facts_name_the_file_of_each_sample() -> None:
    facts = DatasetFacts()
    facts.extend(_facts(make_record(), _circle(), path="a.jsonl"))
    facts.extend(_facts(_circle(label=False), path="b.jsonl"))
    facts.extend(_facts(make_record(), path="a.jsonl"))
    assert (facts.num_samples, facts.num_desirable, facts.num_undesirable) == (4, 3, 1)
    ((row, first),) = facts.whole_keys.seen_before()
    assert (facts.place(row), facts.place(first)) == (Place("a.jsonl", 1, True), Place("a.jsonl", 1, True))
    (found,) = facts.whole_keys.opposed()
    assert (facts.place(found.rarer), facts.place(found.other)) == (
        Place("b.jsonl", 1, False),
        Place("a.jsonl", 2, True),
    )


def test_many_samples_are_compared_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = _facts(make_record(), _circle(), make_record(), _circle(label=False))
    few, many = DatasetFacts(), DatasetFacts()
    few.extend(chunk)
    expected = list(check_dataset(few, CheckSettings()))
    monkeypatch.setattr("kto_data.repeats._MANY", 1)
    many.extend(chunk)
    assert list(check_dataset(many, CheckSettings())) == expected
    assert [finding.code for finding in expected] == ["KTO401", "KTO404", "KTO601"]


def test_findings_about_the_dataset_name_the_other_file() -> None:
    facts = DatasetFacts()
    facts.extend(_facts(make_record(), path="a.jsonl"))
    facts.extend(_facts(make_record(label=False), path="b.jsonl"))
    (finding,) = check_dataset(facts, CheckSettings())
    assert (finding.code, str(finding.location)) == ("KTO401", "b.jsonl:1")
    assert "a.jsonl:1 has the same prompt" in finding.message

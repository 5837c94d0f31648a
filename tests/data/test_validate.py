"""The loop of `validate`: exact counts, the order of the data, and the same findings however the work was divided."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import make_image, make_record, write_jsonl

from kto_data import validate as module
from kto_data import validation
from kto_data.check import CheckSettings
from kto_data.chunk import SourceKind
from kto_data.errors import InputError
from kto_data.finding import Finding, Severity
from kto_data.formats import make_layout
from kto_data.image import ImageCheck, PixelBudget
from kto_data.inputs import Input, open_inputs
from kto_data.source import Source
from kto_data.validate import validate
from kto_data.validation import Validation

Found = tuple[str, str, int | None]
OFF = CheckSettings(images=ImageCheck.OFF)


def answer(text: str, **overrides: Any) -> dict[str, Any]:
    """A text record with an answer of its own."""
    messages = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]
    return make_record(messages=messages, **overrides)


def picture(*paths: str, **overrides: Any) -> dict[str, Any]:
    """A record with an answer of its own and an image for each path."""
    messages = [{"role": "user", "content": "<image>" * len(paths)}, {"role": "assistant", "content": f"{paths}"}]
    return make_record(messages=messages, images=list(paths), **overrides)


def balanced(number: int) -> list[dict[str, Any]]:
    """`number` rows without a defect, the labels in turns."""
    return [answer(f"answer {i}", label=i % 2 == 0) for i in range(number)]


def check(*paths: Path, settings: CheckSettings = OFF, jobs: int = 1) -> tuple[Validation, list[Finding]]:
    """The result and all findings in the order in which they were told."""
    told: list[Finding] = []
    result = validate(open_inputs([str(path) for path in paths]), settings, jobs=jobs, listen=told.extend)
    return result, told


def places(findings: Sequence[Finding]) -> list[Found]:
    return [(finding.code, Path(finding.location.path).name, finding.location.line) for finding in findings]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_CHUNK", 3)


def test_clean_data_has_no_findings_and_exact_counts(tmp_path: Path) -> None:
    result, told = check(write_jsonl(tmp_path / "a.jsonl", balanced(8)))
    assert told == []
    assert result.counts == {}
    assert (result.num_rows, result.num_desirable, result.num_undesirable) == (8, 4, 4)
    assert [(entry.num_rows, entry.num_rows_ok) for entry in result.inputs] == [(8, 8)]
    assert not result.fails(Severity.INFO)


@pytest.mark.usefixtures("small_chunks")
def test_counts_are_exact_by_rule_row_and_file(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "one.jsonl", [*balanced(4), b"", answer(" "), make_record(label="true"), b"{"])
    two = write_jsonl(tmp_path / "two.jsonl", [answer("x", colour=1, extra=2), answer(""), answer("y", label=False)])
    result, told = check(one, two)
    assert [(entry.num_rows, entry.num_rows_ok) for entry in result.inputs] == [(7, 4), (3, 2)]
    assert {code: (count.count, count.num_rows) for code, count in result.counts.items()} == {
        "KTO101": (1, 1),
        "KTO103": (1, 1),
        "KTO111": (2, 1),
        "KTO306": (2, 2),
        "KTO402": (1, 1),
        "KTO404": (1, 0),
    }
    assert result.by_severity == {Severity.ERROR: 4, Severity.WARNING: 4}
    assert len(told) == 8
    # Of the rows that satisfy the schema, those with an empty completion too.
    assert (result.num_desirable, result.num_undesirable) == (5, 3)


@pytest.mark.usefixtures("small_chunks")
def test_findings_come_by_file_as_named_then_by_line(tmp_path: Path) -> None:
    rows = [answer(""), *balanced(4), make_record(label=1), answer(" ", extra=1), b"{"]
    second = write_jsonl(tmp_path / "a.jsonl", rows)
    first = write_jsonl(tmp_path / "b.jsonl", [answer(f"b {i}", extra=1, label=i % 2 == 1) for i in range(5)])
    _, told = check(first, second)
    assert places(told)[:5] == [("KTO111", "b.jsonl", line) for line in range(1, 6)]
    assert places(told)[5:] == [
        ("KTO306", "a.jsonl", 1),
        ("KTO402", "a.jsonl", 6),
        ("KTO111", "a.jsonl", 7),
        ("KTO306", "a.jsonl", 7),
        ("KTO101", "a.jsonl", 8),
    ]


def test_the_number_of_jobs_changes_no_finding(tmp_path: Path) -> None:
    # More than two chunks of the real size: worker processes do not see a changed constant.
    rows = balanced(5000)
    rows[7] = rows[4001]
    rows[2500] = answer("")
    rows[4500] = {**rows[10], "label": False}
    data = write_jsonl(tmp_path / "many.jsonl", rows)
    zipped = tmp_path / "more.jsonl.gz"
    zipped.write_bytes(gzip.compress(json.dumps(rows[1]).encode() + b"\n"))
    one, told_by_one = check(data, zipped, jobs=1)
    two, told_by_two = check(data, zipped, jobs=2)
    assert told_by_one == told_by_two
    assert one == two
    assert places(told_by_one) == [
        ("KTO306", "many.jsonl", 2501),
        ("KTO401", "many.jsonl", 4501),
        ("KTO601", "many.jsonl", 4002),
        ("KTO601", "more.jsonl.gz", 1),
    ]


@pytest.mark.usefixtures("small_chunks")
def test_gzip_and_arrays_keep_physical_lines(tmp_path: Path) -> None:
    rows = [*balanced(4), answer("")]
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(write_jsonl(tmp_path / "a.jsonl", rows).read_bytes()))
    array = tmp_path / "b.json"
    array.write_text(json.dumps([answer(f"b {i}" if i < 4 else " " * i, label=i % 2 == 0) for i in range(6)], indent=1))
    result, told = check(zipped, array)
    start = [number for number, line in enumerate(array.read_text().splitlines(), start=1) if line == " {"][4:]
    assert places(told) == [
        ("KTO306", "a.jsonl.gz", 5),
        ("KTO306", "b.json", start[0]),
        ("KTO306", "b.json", start[1]),
    ]
    assert [entry.num_rows for entry in result.inputs] == [5, 6]


@pytest.mark.usefixtures("small_chunks")
def test_rules_about_all_records_see_across_chunks_and_files(tmp_path: Path) -> None:
    rows = balanced(8)
    one = write_jsonl(tmp_path / "one.jsonl", rows)
    two = write_jsonl(tmp_path / "two.jsonl", [{**rows[0], "label": False}, rows[2]])
    _, told = check(one, two)
    assert places(told) == [("KTO401", "two.jsonl", 1), ("KTO601", "two.jsonl", 2)]
    assert f"{one}:1" in told[0].message
    assert f"{one}:3" in told[1].message


def test_findings_about_all_rows_come_by_code_then_split_then_line(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_image(tmp_path / f"{name}.png")  # all alike
    said = [answer(text, label=text < "c") for text in "dcbaabcd"]
    train = write_jsonl(tmp_path / "train.jsonl", [picture("a.png", extra=1), picture("b.png"), *said, *said])
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [picture("c.png"), *said, answer("a", label=False)])
    told: list[Finding] = []
    settings = CheckSettings(codes=frozenset({"KTO401", "KTO601", "KTO603", "KTO611", "KTO612"}), has_eval_split=True)
    validate(open_inputs([str(train)], splits=[("eval", str(evaluation))]), settings, listen=told.extend)
    found = places(told)
    assert found == sorted(found, key=lambda place: (place[0], place[1] == "eval.jsonl", place[2]))
    assert Counter(code for code, _, _ in found) == {
        "KTO401": 1, "KTO601": 12 + 4, "KTO603": 1, "KTO611": 9, "KTO612": 1,
    }  # fmt: skip
    assert ("KTO603", "train.jsonl", 2) in found


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([True] * 5, ["KTO403"]), ([True] * 7 + [False], ["KTO404"]), ([True, True, True, True, False, False, False], [])],
)
@pytest.mark.usefixtures("small_chunks")
def test_labels_are_judged_over_the_whole_dataset(tmp_path: Path, labels: list[bool], expected: list[str]) -> None:
    rows = [answer(str(i), label=label) for i, label in enumerate(labels)]
    _, told = check(write_jsonl(tmp_path / "a.jsonl", rows[:4]), write_jsonl(tmp_path / "b.jsonl", rows[4:]))
    assert [finding.code for finding in told] == expected
    assert all(finding.location.line is None for finding in told)


@pytest.mark.usefixtures("small_chunks")
def test_a_second_format_is_found_once_in_a_later_file(tmp_path: Path) -> None:
    trl = {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}
    one = write_jsonl(tmp_path / "one.jsonl", balanced(5))
    two = write_jsonl(tmp_path / "two.jsonl", [{**trl, "label": False}])
    _, told = check(one, two)
    assert [finding.code for finding in told].count("KTO114") == 1


@pytest.mark.usefixtures("small_chunks")
def test_a_mapping_that_forgets_the_images_is_found_once_a_file(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    data = write_jsonl(tmp_path / "a.jsonl", [picture("a.png", id=i, label=i % 2 == 0) for i in range(7)])
    columns = {"messages": "messages", "kto_tag": "label"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": data.name, "formatting": "sharegpt", "columns": columns, "tags": tags}
    registry = tmp_path / "dataset_info.json"
    registry.write_text(json.dumps({"mine": entry}))
    told: list[Finding] = []
    validate(open_inputs([], dataset_info=registry, dataset="mine"), OFF, listen=told.extend)
    (found,) = [finding for finding in told if finding.code == "KTO116"]
    assert found.location.path == str(data)
    assert "7" in found.message


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One row for each way in which an image can be wrong, and a good one."""
    make_image(tmp_path / "good.png")
    whole = make_image(tmp_path / "whole.png", 64, 64, noise_seed=1).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-40])
    grey = bytearray(whole)
    grey[200:300] = bytes(100)
    (tmp_path / "damaged.png").write_bytes(grey)
    (tmp_path / "page.png").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "folder.png").mkdir()
    names = "good.png missing.png page.png ../up.png cut.png https://a.example/b.png folder.png damaged.png".split()
    return write_jsonl(tmp_path / "pictures.jsonl", [picture(n, label=i % 2 == 0) for i, n in enumerate(names)])


@pytest.mark.parametrize(
    ("level", "expected", "skipped"),
    [
        ("off", {4: "KTO203", 6: "KTO205"}, "KTO201 KTO202 KTO204 KTO210 KTO211 KTO212 KTO213 KTO215 KTO217 KTO901"),
        (
            "stat",
            {2: "KTO201", 4: "KTO203", 6: "KTO205", 7: "KTO217"},
            "KTO202 KTO204 KTO210 KTO211 KTO212 KTO213 KTO215",
        ),
        (
            "header",
            {2: "KTO201", 3: "KTO202", 4: "KTO203", 5: "KTO204", 6: "KTO205", 7: "KTO217"},
            "",
        ),
        (
            "decode",
            {2: "KTO201", 3: "KTO202", 4: "KTO203", 5: "KTO204", 6: "KTO205", 7: "KTO217", 8: "KTO204"},
            "",
        ),
    ],
)
def test_images_are_looked_at_as_closely_as_asked(
    pictures: Path, level: str, expected: dict[int, str], skipped: str
) -> None:
    result, told = check(pictures, settings=CheckSettings(images=ImageCheck(level)))
    assert {finding.location.line: finding.code for finding in told} == expected
    about_images = [(rule.code, reason) for rule, reason in result.skipped if rule.requires is None]
    assert [code for code, _ in about_images] == skipped.split()
    assert all(f"runs with --images {level}" in reason for _, reason in about_images)
    assert not {rule.code for rule, _ in result.skipped} & {rule.code for rule in result.rules}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (PixelBudget(), []),
        (PixelBudget(max_pixels=3072), []),
        (PixelBudget(max_pixels=3071), ["KTO210", "KTO210"]),
        (PixelBudget(min_pixels=3073), ["KTO211", "KTO211"]),
    ],
)
def test_images_are_held_to_the_budget(tmp_path: Path, budget: PixelBudget, expected: list[str]) -> None:
    make_image(tmp_path / "a.png", 64, 48)
    rows = [picture("a.png"), make_record(label=False), picture("a.png", id=1)]
    _, told = check(
        write_jsonl(tmp_path / "a.jsonl", rows),
        settings=CheckSettings(budget=budget, codes=frozenset({"KTO210", "KTO211"})),
    )
    assert [finding.code for finding in told] == expected


def test_findings_kept_of_a_rule_are_bounded_and_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "KEPT_PER_RULE", 4)
    result, told = check(write_jsonl(tmp_path / "a.jsonl", [answer("", id=i, label=i % 2 == 0) for i in range(9)]))
    count = result.counts["KTO306"]
    assert (count.count, count.num_rows, len(count.findings)) == (9, 9, 4)
    assert count.findings == [finding for finding in told if finding.code == "KTO306"][:4]


def test_rows_that_repeat_cost_no_more_than_40_bytes_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, bound in (
        ("column.MOST_BYTES", 1024), ("column._BLOCK_BYTES", 1024), ("blockwise._BLOCK", 64), ("repeats._MANY", 1),
        ("validate._ROWS_PER_CHUNK", 50), ("validate._TOLD_AT_ONCE", 50), ("validation.KEPT_PER_RULE", 5),
    ):  # fmt: skip
        monkeypatch.setattr(f"kto_data.{where}", bound)

    def peak(number: int) -> int:
        rows = [answer(f"answer {i // 3}", label=i % 3 > 0) for i in range(number)]  # each thrice, with both labels
        data = write_jsonl(tmp_path / f"{number}.jsonl", rows)
        inputs = open_inputs([str(data)])
        tracemalloc.start()
        found = validate(inputs, OFF).counts
        assert (found["KTO401"].count, found["KTO601"].count) == (number // 3, number // 3)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(300)  # after which all is imported
    few = peak(3_000)
    assert (peak(9_000) - few) / 6_000 < 40


def test_rules_come_worst_first_then_by_number(tmp_path: Path) -> None:
    rows = [*balanced(4), answer("", extra=1), answer(" ", extra=1), b"{", answer("z", extra=1)]
    result, _ = check(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [count.rule.code for count in result.worst_first()][:3] == ["KTO306", "KTO101", "KTO111"]


def test_progress_tells_the_rows_of_all_files(tmp_path: Path) -> None:
    paths = [str(write_jsonl(tmp_path / name, balanced(3))) for name in ("a.jsonl", "b.jsonl")]
    told: list[tuple[int, float | None, int]] = []
    validate(open_inputs(paths), OFF, progress=lambda *numbers: told.append(numbers))
    assert told == [(3, 0.5, 0), (6, 1.0, 0)]


def test_what_share_is_done_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(write_jsonl(tmp_path / "a.jsonl", balanced(3)).read_bytes()))
    told: list[float | None] = []
    validate(open_inputs([str(path)]), OFF, progress=lambda num_rows, share, num_lost: told.append(share))
    assert told == [None]


def test_data_without_rows_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        check(write_jsonl(tmp_path / "blank.jsonl", [b"", b"  "]))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="no rows"):
        check(tmp_path / "empty.jsonl")


def test_a_missing_file_and_a_folder_without_data_are_input_errors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", balanced(1))
    with pytest.raises(InputError, match="does not exist") as missing:
        check(tmp_path / "trian.jsonl")
    assert missing.value.hint == f"did you mean {tmp_path / 'train.jsonl'}?"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no data file"):
        check(tmp_path / "empty")


def test_a_file_that_vanishes_after_it_was_opened_is_an_input_error(tmp_path: Path) -> None:
    path = str(tmp_path / "gone.jsonl")
    gone = Input(Source(path=path, kind=SourceKind.JSONL, local=path), make_layout("auto"))
    with pytest.raises(InputError, match=r"gone\.jsonl cannot be read"):
        validate([gone], OFF)

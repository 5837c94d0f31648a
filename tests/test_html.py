"""The HTML report: one file that shows everything, believes nothing, and stays small."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from hypothesis import given
from outcomes import HOSTILE, Words, clean_validation, full_validation, outcome_of, plain_words
from PIL import Image

from kto_data.check import CheckSettings
from kto_data.cli import main
from kto_data.distribution import distribution
from kto_data.inputs import open_inputs
from kto_data.report.formats import FORMATS
from kto_data.report.pictures import MOST_PICTURES, take_pictures
from kto_data.rules import ALL_RULES
from kto_data.safe_text import printable
from kto_data.survey import SourceCounts, Survey
from kto_data.validate import validate as run
from kto_data.validation import RuleCount, Validation

MOST_BYTES = 300_000
VOID = {"meta", "link", "br", "img", "input", "rect", "line", "path"}


class Page(HTMLParser):
    """The report as a browser would take it apart, as far as a test can tell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in tags]


def validate(folder: Path, *arguments: str | Path) -> Page:
    """Run the command, and take the report apart that it wrote."""
    path = folder / "report.html"
    assert main(["validate", *map(str, arguments), "--quiet", "--report", f"html:{path}"]) in (0, 1)
    return Page(path.read_text(encoding="utf-8"))


def pictures(page: Page) -> list[bytes]:
    return [base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,")) for image in page.all("img")]


def small_images(folder: Path, number: int) -> Path:
    """Data with `number` images, all of them under the least area that is not pointed out."""
    rows = []
    for index in range(number):
        make_image(folder / "images" / f"{index}.jpg", 20, 10)
        messages = [
            {"role": "user", "content": f"<image>What is number {index}?"},
            {"role": "assistant", "content": f"It is teal, as {index} says."},
        ]
        rows.append(make_record(messages=messages, images=[f"images/{index}.jpg"], label=index % 2 == 0))
    return write_jsonl(folder / "data.jsonl", rows)


def wide_survey(validation: Validation) -> Survey:
    """Nine splits with a hundred sources each, and numbers of every size."""
    values = {number**3: 5 for number in range(1, 400)}
    spread = distribution(values, values)
    (split,) = validation.survey.splits
    sources = tuple(SourceCounts(source=f"{HOSTILE * 9}{index}", labels=split.labels) for index in range(100))
    wide = replace(
        split, name=HOSTILE * 9, sources=sources, num_sources=100,
        completion_length=spread, sample_tokens=spread, pixel_area=spread,
    )  # fmt: skip
    return Survey(splits=(wide,) * 9)


def hostile_words(rule: object, number: int) -> str:
    return HOSTILE * 100


def wide_words(rule: object, number: int) -> str:
    return '字"<' * 1_000


@pytest.mark.parametrize("words", [plain_words, hostile_words, wide_words])
def test_a_hundred_thousand_findings_over_all_rules_are_a_small_file(words: Words, tmp_path: Path) -> None:
    validation = full_validation(tmp_path, words=words, pointer=f"/{words(ALL_RULES[0], 1)}")
    names = [f"{HOSTILE * 5}{index}.jsonl" for index in range(500)]
    inputs = tuple(replace(validation.inputs[0], path=name, num_rows=200) for name in names)
    text = FORMATS["html"](outcome_of(replace(validation, inputs=inputs, survey=wide_survey(validation))))
    assert len(text.encode()) < MOST_BYTES
    page = Page(text)
    assert "450 more files" in page.text
    assert "88 more sources" in page.text
    assert "6 more splits" in page.text
    for count in validation.counts.values():
        assert f"{count.count:,} finding" in page.text


def test_every_rule_has_a_finding_shown_and_the_rest_counted(tmp_path: Path) -> None:
    validation = full_validation(tmp_path)
    text = FORMATS["html"](outcome_of(validation))
    for part in text.split('<details class="rule" id="')[1:]:
        part = part.partition("</details>")[0]
        code, shown = part[:6], part.count("<li>")
        assert shown >= 1
        left = validation.counts[code].count - shown
        assert (f"… and {left:,} more" in part) == (left > 0)


def test_nothing_in_it_comes_from_elsewhere(tmp_path: Path) -> None:
    page = Page(FORMATS["html"](outcome_of(full_validation(tmp_path, 1_000))))
    assert page.open == []
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert [name for tag, attributes in page.tags for name in attributes if name.startswith("on")] == []
    assert [attributes for attributes in page.all("script", "link") if "src" in attributes] == []


def test_it_can_be_read_by_those_who_do_not_see_it(tmp_path: Path) -> None:
    page = Page(FORMATS["html"](outcome_of(full_validation(tmp_path, 1_000))))
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(levels))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") >= 3
    assert all(after == "caption" for tag, after in pairwise(tags) if tag == "table")
    assert all("scope" in heading for heading in page.all("th"))
    assert all("aria-label" in drawing or "aria-labelledby" in drawing for drawing in page.all("svg"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("where", ["content", "id", "source", "images", "label", "a name of a field"])
def test_no_text_of_the_data_becomes_markup(where: str, tmp_path: Path) -> None:
    evil = HOSTILE.replace("\ud800", "") + "</style></script>{{ 7 * 7 }}"
    value: object = evil
    if where == "content":
        value = [{"role": evil, "content": evil}, {"role": "assistant", "content": evil}]
    key = {"content": "messages", "a name of a field": evil}.get(where, where)
    rows = [make_record(**{key: [evil] if where == "images" else value}) for _ in range(3)]
    page = validate(tmp_path, write_jsonl(tmp_path / "<img src=x onerror=alert(1)>\u202e.jsonl", rows), "--split",
                    f"<b>{where}</b>={write_jsonl(tmp_path / 'other.jsonl', rows)}")  # fmt: skip
    assert page.open == []
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert "<img src=x onerror=alert(1)>\\u202e.jsonl" in page.text
    assert not set("\u202e\x1b\x00") & set(page.text)
    assert "49" not in page.text


def test_redacted_content_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [make_record(label="my own words", id="name of mine"), make_record()])
    assert "my own words" in validate(tmp_path, data).text
    page = validate(tmp_path, data, "--redact")
    assert "my own words" not in page.text
    assert "name of mine" not in page.text
    assert "blacked out" in page.text
    monkeypatch.setenv("CI", "true")
    assert "my own words" not in validate(tmp_path, data).text


def test_what_is_hidden_is_counted(tmp_path: Path) -> None:
    data, baseline = write_jsonl(tmp_path / "data.jsonl", [make_record(label="x"), make_record()]), tmp_path / "known"
    assert main(["validate", str(data), "--write-baseline", str(baseline)]) == 0
    page = validate(tmp_path, data, "--baseline", baseline)
    assert re.search(r"Not shown, and not among the numbers above: \d+ in the baseline", page.text)
    assert "found nothing but what is left out on purpose" in page.text


def test_limits_are_drawn_in_and_named(tmp_path: Path, tiny_model: TinyModel) -> None:
    data = small_images(tmp_path, 4)
    given = ["--model", tiny_model("qwen2_5_vl"), "--max-length", "40", "--image-max-pixels", "150"]
    page = validate(tmp_path, data, *given)
    assert re.search(r"40 tokens: --max-length \(KTO501: ", page.text)
    assert "150 pixels: --image-max-pixels (KTO210: 4 findings)" in page.text
    drawn = [line for line in page.all("line") if line.get("class") == "limit"]
    assert len(drawn) >= 2
    plain = validate(tmp_path, data)
    assert "Sample length" not in plain.text  # which needs a model
    assert "784 pixels: --image-min-pixels, not given: its default (KTO211: 4 findings)" in plain.text


def test_rules_that_could_not_run_are_there_with_the_reason(tmp_path: Path) -> None:
    page = validate(tmp_path, write_jsonl(tmp_path / "data.jsonl", [make_record(), make_record(label=False)]))
    assert "needs --model and --max-length KTO501 over-max-length" in page.text


def test_pictures_are_there_where_they_are_asked_for_and_content_may_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_images(tmp_path, 12)
    assert pictures(validate(tmp_path, data)) == []
    assert pictures(validate(tmp_path, data, "--thumbnails", "--redact")) == []
    monkeypatch.setenv("CI", "true")
    page = validate(tmp_path, data, "--thumbnails")
    assert pictures(page) == []
    assert "pictures left out" in page.text
    monkeypatch.delenv("CI")
    shown = pictures(validate(tmp_path, data, "--thumbnails"))
    assert len(shown) == 10  # as many as findings are shown
    for picture in shown:
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format == "JPEG"
            assert image.size == (20, 10)


def test_there_are_a_few_dozen_pictures_at_most_and_each_image_is_shown_once_a_rule(tmp_path: Path) -> None:
    data = small_images(tmp_path, MOST_PICTURES + 4)
    inputs, settings = open_inputs([str(data), str(shutil.copy(data, tmp_path / "again.jsonl"))]), CheckSettings()
    findings = run(inputs, settings).counts["KTO211"].findings
    assert len(findings) == 2 * (MOST_PICTURES + 4)
    assert len(take_pictures([findings], inputs, settings)) == MOST_PICTURES
    twice = [findings[0], findings[MOST_PICTURES + 4]]
    assert twice[0].location.path != twice[1].location.path
    assert len(take_pictures([twice], inputs, settings)) == 1
    assert len(take_pictures([[twice[0]], [replace(twice[1], code="KTO210")]], inputs, settings)) == 2


def test_a_picture_is_small_and_upright_and_says_nothing_of_where_it_was_taken(tmp_path: Path) -> None:
    data = small_images(tmp_path, 2)
    for index in range(2):
        image = Image.new("RGB", (3_000, 2), "teal")
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "where I live"
        image.save(tmp_path / "images" / f"{index}.jpg", exif=exif, comment=b"where I live")
    for picture in pictures(validate(tmp_path, data, "--thumbnails")):
        assert b"where I live" not in picture
        with Image.open(io.BytesIO(picture)) as small:
            assert small.height == 160
            assert small.width == 1


def test_no_picture_is_taken_from_outside_the_image_root(tmp_path: Path) -> None:
    data = small_images(tmp_path / "inside", 3)
    make_image(tmp_path / "outside.jpg", 20, 10)
    link = tmp_path / "inside" / "images" / "1.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "inside" / "images" / "2.jpg").write_bytes(b"no image")
    page = validate(tmp_path, data, "--thumbnails", "--select", "KTO2")
    assert len(pictures(page)) == 1  # of the first record alone
    assert "KTO203" in page.text


def test_pictures_come_from_every_kind_of_file_that_can_be_read_twice(tmp_path: Path) -> None:
    data = small_images(tmp_path, 2)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=2))
    with gzip.open(tmp_path / "packed.jsonl.gz", "wb") as file:
        file.write(data.read_bytes())
    for name in ("array.json", "packed.jsonl.gz"):
        assert len(pictures(validate(tmp_path, tmp_path / name, "--thumbnails", "--select", "KTO211"))) == 2
    command = [sys.executable, "-m", "kto_data", "validate", "-", "--image-root", str(tmp_path), "--thumbnails"]
    done = subprocess.run(
        [*command, "--output-format", "html"], input=data.read_bytes(), capture_output=True, check=True
    )
    assert b"KTO211" in done.stdout
    assert b"<img" not in done.stdout


def test_the_same_outcome_is_the_same_file(tmp_path: Path) -> None:
    assert FORMATS["html"](outcome_of(clean_validation(tmp_path))) == FORMATS["html"](
        outcome_of(clean_validation(tmp_path))
    )


def test_what_few_samples_seem_to_say_is_called_chance(tmp_path: Path) -> None:
    assert (
        "tells the labels apart with AUC 1.00 (no more than by chance)"
        in Page(FORMATS["html"](outcome_of(clean_validation(tmp_path)))).text
    )
    rows = []
    for index in range(40):
        answer = {"role": "assistant", "content": "long " * index if index % 2 else f"{index}"}
        rows.append(make_record(messages=[{"role": "user", "content": "?"}, answer], label=index % 2 == 0))
    page = validate(tmp_path, write_jsonl(tmp_path / "many.jsonl", rows))
    assert re.search(r"tells the labels apart with AUC 1.00 \(0.5: not at all, 1: fully\)", page.text)


@pytest.fixture(scope="module")
def one_finding(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    return full_validation(tmp_path_factory.mktemp("data"), 500)


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=100), st.text(min_size=1, max_size=100))
def test_whatever_is_found_is_shown_as_text(
    one_finding: Validation, message: str, pointer: str, record_id: str, path: str
) -> None:
    (count,) = [count for code, count in one_finding.counts.items() if code == "KTO305"]
    (finding, *_) = count.findings
    where = replace(finding.location, path=path, pointer=pointer)
    found = RuleCount(count.rule)
    found.add(replace(finding, message=message, record_id=record_id, location=where))
    page = Page(FORMATS["html"](outcome_of(replace(one_finding, counts={"KTO305": found}))))
    assert page.open == []
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert page.all("img") == []
    assert " ".join(printable(message.encode("utf-8", "backslashreplace").decode()).split()) in page.text

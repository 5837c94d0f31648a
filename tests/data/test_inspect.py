"""Rows of a cache shown as text: just what the template wrote, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kto_data.cli import main
from kto_data.decode import PieceKind, decode
from kto_data.encode import Encoded, Encoder, Sample
from kto_data.processor import Processor, load_processor
from kto_data.record import Record
from kto_data.shard import CachedRow, read_rows, write_shard
from kto_data.template import Rendered


@pytest.fixture(scope="module")
def text_processor(tiny_model: TinyModel) -> Processor:
    return load_processor(tiny_model("text"))


def turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(min_size=1, max_size=40), answer=st.text(min_size=1, max_size=40))
def test_what_is_decoded_from_a_cache_is_what_the_template_wrote(
    text_processor: Processor, tmp_path: Path, question: str, answer: str
) -> None:
    record = Record.model_validate_json(json.dumps(make_record(messages=turns(question, answer))))
    (encoded,) = Encoder(text_processor).encode([Sample(record, ())])
    assume(isinstance(encoded, Encoded))  # a template may refuse a text of spaces
    assert isinstance(encoded, Encoded)
    write_shard(tmp_path, "shard.arrow", [CachedRow(encoded, True, "data.jsonl", 1, None)])
    (row,) = read_rows(tmp_path / "shard.arrow")
    decoded = decode(text_processor, row.encoded)
    (rendered,) = text_processor.render([record])
    assert isinstance(rendered, Rendered)
    assert "".join(piece.text for piece in decoded.prompt + decoded.completion) == rendered.whole
    assert {piece.text for piece in decoded.completion if piece.kind is PieceKind.SPECIAL} != set()


@pytest.fixture
def cache(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """Five rows, the second and the last of them desirable; the first has two images, of one size."""
    make_image(tmp_path / "a.png", 120, 40)
    make_image(tmp_path / "b.png", 120, 40)
    rows = [
        make_record(messages=turns("<image>and <image>?", "Two."), images=["a.png", "b.png"], label=False, id="one"),
        make_record(messages=turns("\x1b[31mred\u202e", "a\ncompletion\nb" + "x" * 200)),
        *(make_record(messages=turns(f"q{i}", f"a{i}"), label=i == 2) for i in range(3)),
    ]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    command = ["preprocess", str(data), "--model", str(tiny_model("llava_next")), "--output", str(tmp_path / "cache")]
    assert main([*command, "--jobs", "1", "--quiet", "--shard-rows", "2"]) == 0
    return tmp_path / "cache"


def test_images_stand_where_their_tokens_are(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(cache), "--row", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"train 0  undesirable  {cache.parent / 'train.jsonl'}:1  id one"
    content = "\n".join(line.removeprefix("│ ") for line in lines if line.startswith("│ "))
    images = re.findall(r"\[image 120x40 px, \d+ tokens, [ab]\.png\]", content)
    assert len(images) == 2
    first, second = map(content.index, images)
    assert first < content.index("and ") < second < content.index("Two.")


def test_content_reaches_a_terminal_whole_and_harmless(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(cache), "--row", "1"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[31mred\\u202e" in shown
    assert "x" * 200 in shown
    assert [line for line in shown.splitlines() if line == "completion"] == ["completion"]  # content makes no heading
    assert main(["inspect", str(cache), "--row", "1", "--color", "always"]) == 0
    assert "\x1b[1mcompletion\x1b[0m" in capsys.readouterr().out


def test_rows_are_chosen_by_number_and_by_label(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def numbers(*options: str) -> list[str]:
        assert main(["inspect", str(cache), *options]) == 0
        return [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]

    assert numbers() == ["0", "1", "2"]
    assert numbers("--head", "9") == ["0", "1", "2", "3", "4"]
    assert numbers("--label", "desirable", "--head", "2") == ["1", "4"]
    assert numbers("--row", "4", "--row", "2") == ["4", "2"]
    for options in (["--row", "5"], ["--row", "1", "--head", "2"], ["--split", "eval"]):
        assert main(["inspect", str(cache), *options]) == 2


def test_a_page_shows_the_images_that_are_there(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "b.png").unlink()
    page = tmp_path / "rows.html"
    assert main(["inspect", str(cache), "--head", "2", "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 1
    assert "b.png; not found, or no image]" in text
    assert "\x1b" not in text


def test_a_page_shows_each_image_with_its_name_where_it_stands(cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "rows.html"
    assert main(["inspect", str(cache), "--row", "0", "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 2
    places = [text.index(words) for words in ("a.png", "and ", "b.png", "Two.")]
    assert places == sorted(places)


def test_the_cache_moves_with_its_model_and_knows_another_one(
    cache: Path, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = json.loads((cache / "manifest.json").read_bytes())["model"]
    assert (cache / place).resolve() == tiny_model("llava_next").resolve()
    assert main(["inspect", str(cache), "--model", str(tiny_model("idefics3"))]) == 2
    assert "the cache was made with another tokenizer" in capsys.readouterr().err
    moved = tmp_path / "far" / "away"
    moved.parent.mkdir()
    cache.rename(moved)
    assert main(["inspect", str(moved)]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main(["inspect", str(moved), "--model", str(tiny_model("llava_next"))]) == 0

"""What a cache is made of, each part changed alone: it is named with both values, and only what must be is redone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TinyModel, make_image, make_record, write_jsonl
from test_preprocess import files_of

from kto_data import build
from kto_data.cli import main

ROWS, ROWS_OF_A_SHARD = 40, 5
TRAIN, EVAL = Path("train.jsonl"), Path("eval.jsonl")  # in the current folder, so that a copy of it is the same to us
MODEL, MANIFEST = Path("model"), Path("cache/manifest.json")
TOKENIZER, NAMED, TEMPLATE, IMAGES = (
    MODEL / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json")
)
HASHES = r"[0-9a-f]{8} -> [0-9a-f]{8}"


def record(number: int, **overrides: Any) -> dict[str, Any]:
    """The shards of `train.jsonl` have three images in turn, all rows of one the same."""
    turns = [("user", f"<image>What is in picture {number}?"), ("assistant", f"The number {number}.")]
    return make_record(
        messages=[{"role": role, "content": text} for role, text in turns],
        images=[f"{number // ROWS_OF_A_SHARD % 3}.png"],
        **{"label": number % 2 == 0, **overrides},
    )


def text_record(question: int, label: bool) -> dict[str, Any]:
    turns = [("user", f"Question {question}?"), ("assistant", "An answer.")]
    return make_record(messages=[{"role": role, "content": text} for role, text in turns], label=label)


def make_workplace(folder: Path, model: Path) -> None:
    for number in range(3):
        make_image(folder / f"{number}.png", noise_seed=number)
    rows: list[Any] = [record(number) for number in range(ROWS)]
    rows[7] = record(7, label="perhaps")  # which is dropped
    write_jsonl(folder / TRAIN, rows)
    write_jsonl(folder / EVAL, [text_record(100 + number, number % 2 == 0) for number in range(4)])
    questions = [*range(18), 3, 11]  # two of them twice, and with both labels
    write_jsonl(
        folder / "drawn.jsonl", [text_record(number, i % 4 < 2 or i >= 18) for i, number in enumerate(questions)]
    )
    shutil.copytree(model, folder / MODEL)


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def alter_image() -> None:
    """One of the same name, size in bytes and time."""
    image = Path("2.png")
    status, content = image.stat(), bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))


# What is set in `build` is put back by the fixture.


def older_library(name: str) -> None:
    installed = build.version
    build.version = lambda asked: "0.0.1" if asked == name else installed(asked)  # type: ignore[assignment]


def newer_version() -> None:
    build.__version__ = "9.0"  # type: ignore[attr-defined]


def newer_format() -> None:
    build.FORMAT_VERSION = 2  # type: ignore[attr-defined,misc]


def copy_images() -> None:
    Path("elsewhere").mkdir()
    for image in Path().glob("*.png"):
        shutil.copy(image, "elsewhere")


def edit_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_rows(change: Callable[[list[Any]], list[Any]]) -> None:
    write_jsonl(TRAIN, change(TRAIN.read_bytes().splitlines()))


def older_format() -> None:
    manifest = json.loads(MANIFEST.read_bytes())
    manifest["parts"]["format_version"] = 0
    MANIFEST.write_text(json.dumps(manifest))


class Case(NamedTuple):
    name: str
    change: Callable[[], object] | None
    options: tuple[str, ...]
    told: str  # a pattern of what is said to have changed; empty: nothing is
    num_redone: int  # pieces of work, of 9: eight of the training and one of the evaluation


OTHER_TRAIN, OTHER_EVAL = f"inputs, train train.jsonl {HASHES}", f"inputs, eval eval.jsonl {HASHES}"
CASES = [
    Case("a row edited", lambda: edit(TRAIN, "number 12.", "number 99."), (), OTHER_TRAIN, 1),
    Case("rows swapped", lambda: change_rows(lambda rows: [*rows[1::-1], *rows[2:]]), (), OTHER_TRAIN, 1),
    Case("a row added", lambda: change_rows(lambda rows: [*rows, record(ROWS)]), (), OTHER_TRAIN, 1),
    Case("a row removed", lambda: change_rows(lambda rows: rows[:-1]), (), OTHER_TRAIN, 1),
    Case("a row put first", lambda: change_rows(lambda rows: [record(99), *rows]), (), OTHER_TRAIN, 9),
    Case("eval edited", lambda: edit(EVAL, "An answer.", "Another."), (), OTHER_EVAL, 1),
    Case("image altered", alter_image, (), "images", 2),
    Case("image resized", lambda: make_image(Path("0.png"), 30, 30, noise_seed=9), (), "images", 3),
    Case("image deleted", Path("1.png").unlink, (), "images", 3),
    Case("image touched", lambda: os.utime("0.png"), (), "", 0),
    Case("tokenizer", lambda: edit(TOKENIZER, '"lstrip": false', '"lstrip": true'), (), f"tokenizer, {HASHES}", 9),
    Case(
        "special token", lambda: edit(NAMED, '"eos_token": "</s>"', '"eos_token": "<s>"'), (), f"tokenizer, {HASHES}", 9
    ),
    Case(
        "special tokens read as text",
        lambda: edit(NAMED, "{", '{"split_special_tokens": true,'),
        (),
        f"tokenizer, {HASHES}",
        9,
    ),
    Case("another token pads", lambda: edit(NAMED, '"<pad>"', '"</s>"'), (), "", 0),
    Case("template", lambda: edit(TEMPLATE, "{", " {"), (), f"chat_template, {HASHES}", 9),
    Case("image settings", lambda: edit(IMAGES, 'rgb": true', 'rgb": false'), (), f"image_processor, {HASHES}", 9),
    Case("spaces alone", lambda: edit(TOKENIZER, '"add_prefix_space":', '"add_prefix_space" :'), (), "", 0),
    *(
        Case(name, partial(older_library, name), (), rf"libraries, {name} [\d.]+ -> 0\.0\.1$", 9)
        for name in ("transformers", "tokenizers", "jinja2", "pillow", "pyarrow", "datasets")
    ),
    Case("ktodata", newer_version, (), r"libraries, ktodata [\w.]+ -> 9\.0$", 9),
    Case("newer format", newer_format, (), "format_version, 1 -> 2$", 9),
    Case("format version", older_format, (), "format_version, 0 -> 1", 0),
    Case("images elsewhere", copy_images, ("--image-root", "elsewhere"), "", 0),
    Case("manifest gone", MANIFEST.unlink, (), "", 0),
    Case("shard tampered with", lambda: edit_bytes(Path("cache/train/shard-00003.arrow")), (), "", 1),
    Case("shard gone", Path("cache/train/shard-00002.arrow").unlink, (), "", 1),
    Case("max length", None, ("--max-length", "900"), "max_length, None -> 900", 9),
    Case("too long", None, ("--too-long", "drop"), "too_long, error -> drop", 9),
    Case("max pixels", None, ("--image-max-pixels", "400"), "image_max_pixels, None -> 400", 9),
    Case("min pixels", None, ("--image-min-pixels", "400"), "image_min_pixels, None -> 400", 9),
    Case("shard rows", None, ("--shard-rows", "10"), "shard_rows, 5 -> 10", 4),
    Case("format", None, ("--format", "messages"), "layouts, …None… -> …<Format.MESSAGES: 'messages'>…", 9),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> Path:
    """A folder with data, a model, and a cache of each way to have an eval split."""
    folder = tmp_path_factory.mktemp("made")
    make_workplace(folder, tiny_model("llava"))
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert preprocess(*GIVEN, "--output", "cache") == 0
        assert preprocess(*DRAWN, "--output", "drawn") == 0
    finally:
        os.chdir(here)
    return folder


FIXED = ("--model", "model", "--shard-rows", str(ROWS_OF_A_SHARD), "--invalid", "drop", "--jobs", "1")
GIVEN = (str(TRAIN), "--eval-data", str(EVAL), *FIXED)
DRAWN = ("drawn.jsonl", "--eval-fraction", "0.3", *FIXED)


def preprocess(*arguments: str) -> int:
    return main(["preprocess", *arguments])


@pytest.fixture
def workplace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed, which is the current folder."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    for name in ("version", "__version__", "FORMAT_VERSION"):
        monkeypatch.setattr(build, name, getattr(build, name))
    return tmp_path / "work"


def content_of(cache: str) -> dict[str, bytes]:
    """All files but what is left for the next run, which also says when images were last changed."""
    return {name: content for name, content in files_of(Path(cache)).items() if not name.startswith(".units")}


def told_of(err: str) -> tuple[list[str], int]:
    """What was said to have changed, and how much of the work was done again: -1 if nothing of it was there."""
    changed = re.findall(r"^ktodata: changed since the last run: (.*)$", err, re.MULTILINE)
    if "nothing has changed" in err:
        return changed, 0
    counts = re.search(r"([\d,]+) of ([\d,]+) shards were done already", err)
    return changed, int(counts[2]) - int(counts[1]) if counts else -1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("workplace")
def test_what_changed_is_named_with_both_values_and_no_more_is_redone(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.change is not None:
        case.change()
    capsys.readouterr()
    assert preprocess(*GIVEN, "--output", "cache", *case.options) == 0
    changed, num_redone = told_of(capsys.readouterr().err)
    assert len(changed) == bool(case.told)
    assert re.match(case.told, "".join(changed))
    assert (num_redone if num_redone >= 0 else 9) == case.num_redone
    assert preprocess(*GIVEN, "--output", "afresh", *case.options) == 0
    assert content_of("cache") == content_of("afresh")


@pytest.mark.usefixtures("workplace")
def test_an_input_of_another_name_is_another_input(capsys: pytest.CaptureFixture[str]) -> None:
    TRAIN.rename("renamed.jsonl")
    capsys.readouterr()
    assert preprocess("renamed.jsonl", *GIVEN[1:], "--output", "cache") == 0
    (changed,), num_redone = told_of(capsys.readouterr().err)
    assert re.fullmatch(
        r"inputs, train train.jsonl [0-9a-f]{8} -> None, train renamed.jsonl None -> [0-9a-f]{8}", changed
    )
    assert num_redone == 8  # the evaluation is what it was


@pytest.mark.usefixtures("workplace")
def test_without_its_eval_files_a_cache_has_one_split(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert preprocess(str(TRAIN), *FIXED, "--output", "cache") == 0
    changed, num_redone = told_of(capsys.readouterr().err)
    assert [re.split(r" [0-9a-f]{8}", line)[0] for line in changed] == ["inputs, eval eval.jsonl", "layouts, 2 -> 1"]
    assert num_redone == 0
    assert not Path("cache/eval").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--eval-fraction", "0.5", "eval_fraction, 0.3 -> 0.5"),
        ("--seed", "1", "seed, 0 -> 1"),
        ("--contradictions", "drop", "contradictions, keep -> drop"),
        ("--contradictions", "majority", "contradictions, keep -> majority"),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_how_rows_are_parted_is_part_of_what_a_cache_is(
    option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def shards() -> set[bytes]:
        return {path.read_bytes() for path in Path("drawn").glob("*/*.arrow")}

    before = shards()
    capsys.readouterr()
    assert preprocess(*DRAWN, option, value, "--output", "drawn") == 0
    changed, num_redone = told_of(capsys.readouterr().err)
    assert changed == [told]
    assert (num_redone if num_redone >= 0 else len(shards())) >= len(shards() - before) > 0
    assert preprocess(*DRAWN, option, value, "--output", "afresh") == 0
    assert content_of("drawn") == content_of("afresh")


@pytest.mark.usefixtures("workplace")
def test_what_becomes_of_invalid_rows_is_part_of_it_even_where_there_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert preprocess(*DRAWN, "--invalid", "error", "--output", "drawn") == 0
    assert told_of(capsys.readouterr().err)[0] == ["invalid, drop -> error"]
    assert preprocess(*DRAWN, "--invalid", "error", "--output", "afresh") == 0
    assert content_of("drawn") == content_of("afresh")


@pytest.mark.usefixtures("workplace")
def test_a_seed_that_draws_nothing_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert preprocess(*GIVEN, "--seed", "5", "--output", "cache") == 0
    assert "nothing has changed" in capsys.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_keys_that_were_damaged_are_gathered_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(Path("drawn"))
    first, second, *_ = sorted(Path("drawn/.units").glob("keys-*"))
    first.write_bytes(first.read_bytes()[:-3])
    second.write_bytes(b"{}")
    assert preprocess(*DRAWN, "--output", "drawn") == 0
    assert preprocess(*DRAWN, "--output", "drawn", "--no-resume") == 0
    assert files_of(Path("drawn")) == before
    assert "Traceback" not in capsys.readouterr().err


def test_the_manifest_names_all_that_was_changed_here(made: Path) -> None:
    parts = json.loads((made / "drawn" / "manifest.json").read_bytes())["parts"]
    changed = {re.split(r"[^a-z_]", case.told)[0] for case in CASES}
    changed |= {"eval_fraction", "seed", "contradictions", "shards", "invalid"}
    assert set(parts) - changed == set()

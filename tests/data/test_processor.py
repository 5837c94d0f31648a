"""Model folders that cannot be used are told by name; identity is what decides the ids, and no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import TinyModel

from kto_data.errors import ModelError
from kto_data.processor import Processor, load_processor


@pytest.fixture
def folder(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A copy of a model folder, to spoil."""
    return Path(shutil.copytree(tiny_model("llava"), tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing/", "is not a folder"), ("/nowhere", "is not a folder"), ("", "no tokenizer or processor")],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_processor(tmp_path / name)


def test_a_folder_without_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer"):
        load_processor(folder)


def test_a_tokenizer_that_contradicts_itself_is_named(folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("Ġthe", "Ġthf", 1))  # a merge makes a token out of vocabulary
    with pytest.raises(ModelError, match="no tokenizer or processor can be loaded"):
        load_processor(folder)


def test_a_model_without_chat_template_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(folder)


def test_identity_does_not_depend_on_the_folder(tiny_model: TinyModel, folder: Path) -> None:
    assert load_processor(folder).fingerprint_parts() == load_processor(tiny_model("llava")).fingerprint_parts()


def test_identity_does_not_depend_on_what_was_asked_before(folder: Path) -> None:
    processor = load_processor(folder)
    before = processor.fingerprint_parts()
    processor.tokenizer("some text", padding="max_length", truncation=True, max_length=5)
    assert processor.fingerprint_parts() == before


def test_each_part_of_the_identity_changes_alone(folder: Path) -> None:
    def changed(since: dict[str, str]) -> set[str]:
        now = load_processor(folder).fingerprint_parts()
        return {name for name in now if now[name] != since[name]}

    start = load_processor(folder).fingerprint_parts()
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT: ", "BOT: "))
    assert changed(start) == {"chat_template"}
    edit(folder / "processor_config.json", num_additional_image_tokens=3)
    assert changed(start) == {"chat_template", "image_processor"}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert changed(start) == {"chat_template", "image_processor", "tokenizer"}


def test_long_runs_of_image_tokens_are_spliced_without_a_trace(folder: Path) -> None:
    processor = load_processor(folder)
    token = processor.image_token
    texts = ["", token, f"a{token * 3}b{token}", f" {token * 700} {token}\n{token * 2}", "plain"]
    plain = Processor(str(folder), processor.processing_class)  # has met no image: knows no run
    assert processor.tokenize(texts) == plain.tokenize(texts)


def test_an_image_among_others_may_be_something_else_than_alone(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("llava_onevision"))
    alone, among = (processor.image_span((200, 60), number).num_tokens for number in (1, 2))
    assert alone > among
    assert processor.image_span((200, 60)).num_tokens == alone


def test_a_processor_that_looks_at_the_other_images_is_refused_by_name(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = load_processor(tiny_model("llava_next"))
    assert processor._counting is not None
    ask = processor._counting._from_blanks
    # As one that brings all images of a row to the size of the largest.
    monkeypatch.setattr(processor._counting, "_from_blanks", lambda sizes: ask([max(sizes)] * len(sizes)))
    with pytest.raises(ModelError, match="LlavaNextProcessor gives an image other tokens"):
        processor.image_span((28, 28), 2)

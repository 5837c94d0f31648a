"""Model folders that cannot be used are told by name; identity is what decides the ids, and no more."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoProcessor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    ProcessorMixin,
    Qwen2VLProcessor,
)

from kto_data.errors import ModelError
from kto_data.image_tokens import Run
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


def test_a_mistyped_folder_is_told_before_transformers_is_imported() -> None:
    steps = """
import sys
from kto_data.errors import ModelError
from kto_data.processor import load_processor
try:
    load_processor("./mistyped")
except ModelError as error:
    print(error, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", steps], capture_output=True, text=True, check=True)
    assert done.stdout == "./mistyped is not a folder False\n"


def test_a_folder_without_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer"):
        load_processor(folder)


def test_a_tokenizer_that_contradicts_itself_is_named(folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("Ġthe", "Ġthf", 1))  # a merge makes a token out of vocabulary
    with pytest.raises(ModelError, match="no tokenizer or processor can be loaded"):
        load_processor(folder)


WITHOUT_TORCHVISION = """
import sys
sys.modules["torchvision"] = None
from kto_data.errors import ModelError
from kto_data.image_tokens import Run
from kto_data.processor import load_processor
for model in sys.argv[1:]:
    try:
        load_processor(model)
    except ModelError as error:
        print(error.what.replace(model, "MODEL"))
"""


def test_a_processor_that_wants_torchvision_says_so_where_there_is_none(tiny_model: TinyModel) -> None:
    models = [str(tiny_model(family)) for family in ("qwen2_vl", "internvl", "llama4", "llava")]
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCHVISION, *models]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the image processor of MODEL needs torchvision, which is not installed"] * 3


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
    assert processor.tokenizer.backend_tokenizer.truncation is not None
    asked_anew = Processor(str(folder), processor.processing_class)  # one remembers what it has said
    assert asked_anew.fingerprint_parts() == before


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


@given(pieces=st.lists(st.sampled_from(["aa", "a", "b", "aab"]), max_size=8))
def test_runs_of_a_token_are_found_however_they_lie(pieces: list[str]) -> None:
    text, run = "".join(pieces), Run("aa", id=0)
    short, lengths = run.shorten(text)
    assert lengths == [len(found) // 2 for found in re.findall("(?:aa)+", text)]
    assert short == re.sub("(?:aa)+", "aa", text)


def test_an_image_among_others_may_be_something_else_than_alone(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("llava_onevision"))
    alone, among = (processor.image_span((200, 60), number).num_tokens for number in (1, 2))
    assert alone > among
    assert processor.image_span((200, 60)).num_tokens == alone


class LooksAtPictures(LlavaProcessor):
    """Gives a bright picture more tokens than a dark one."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        bright = bool(np.asarray(image_inputs["pixel_values"][image_idx]).max() > 10)
        return str(super().replace_image_token(image_inputs, image_idx, **options)) + self.image_token * bright


class LooksAtOthers(LlavaNextProcessor):
    """Takes all images of a row for what its first one is."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        return str(super().replace_image_token(image_inputs, 0, **options))


class WritesMore(LlavaProcessor):
    """Ends each text with images by a word of its own."""

    def get_text_with_replacements(self, text: list[str], *replacements: Any) -> Any:
        expanded, offsets = super().get_text_with_replacements(text, *replacements)
        return [one + " Well?" if any(replacements[0]) else one for one in expanded], offsets


class KnowsNoPlaceholder(LlavaProcessor):
    """Has images, and no word on what they become."""

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **options: Any) -> str:
        raise NotImplementedError  # as transformers' own processors do that lack it


class MiscountsAlways(Qwen2VLProcessor):
    """Is one token off in all that it counts."""

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **options: Any) -> Any:
        counted = super()._get_num_multimodal_tokens(image_sizes, **options)["num_image_tokens"]
        return {"num_image_tokens": [number + 1 for number in counted]}


class MiscountsWide(Qwen2VLProcessor):
    """Counts right but for images of over 200 pixels across."""

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **options: Any) -> Any:
        counted = super()._get_num_multimodal_tokens(image_sizes, **options)["num_image_tokens"]
        return {"num_image_tokens": [counted[0] + (image_sizes[0][1] > 200)]}


class MindsTheArrangement(InternVLProcessor):
    """Writes another text for a tall image than for a wide one of as many tiles."""

    def _process_images(self, images: Any, **options: Any) -> Any:
        processed, replacements = super()._process_images(images, **options)
        flat = [image for row in images for image in row]
        marks = ["tall" if image.height > image.width else "" for image in flat]
        return processed, [text + mark for text, mark in zip(replacements, marks, strict=True)]


def as_kind(folder: Path, kind: type[ProcessorMixin]) -> Processor:
    """The processor of `folder` as one of a class of somebody's own."""
    processing_class = load_processor(folder).processing_class
    processing_class.__class__ = kind
    return Processor(str(folder), processing_class)


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        ("llava", LooksAtPictures, "LooksAtPictures makes something else of another picture of the same size"),
        ("llava", WritesMore, "WritesMore writes more into a text than its images"),
        ("llava", KnowsNoPlaceholder, "KnowsNoPlaceholder does not say what it makes of an image: "),
    ],
)
def test_a_processor_that_cannot_be_known_from_sizes_is_refused_by_name(
    family: str, kind: type[ProcessorMixin], message: str, tiny_model: TinyModel
) -> None:
    with pytest.raises(ModelError, match=f"^{message}") as raised:
        as_kind(tiny_model(family), kind).check_usable()
    assert raised.value.hint


def test_a_processor_that_looks_at_the_other_images_is_refused_by_name(tiny_model: TinyModel) -> None:
    processor = as_kind(tiny_model("llava_next"), LooksAtOthers)
    processor.check_usable()  # of single images it says all
    with pytest.raises(ModelError, match="LooksAtOthers gives an image other tokens beside other images"):
        processor.image_span((28, 28), 2)


USUAL_SIZES = [(width, height) for width in (30, 64, 90, 200) for height in (30, 57, 120)]


@pytest.mark.parametrize(
    ("family", "kind"),
    [("qwen2_vl", MiscountsAlways), ("internvl", MindsTheArrangement), ("internvl", InternVLProcessor)],
)
def test_numbers_that_do_not_tell_are_not_believed(
    family: str, kind: type[ProcessorMixin], tiny_model: TinyModel
) -> None:
    processor, fresh = as_kind(tiny_model(family), kind), as_kind(tiny_model(family), kind)
    assert fresh._counting is not None
    for size in USUAL_SIZES:
        assert processor.image_span(size).replacement == fresh._counting._from_blank(size), size


def test_a_count_that_is_found_wrong_later_stops_the_run_by_name(tiny_model: TinyModel) -> None:
    processor = as_kind(tiny_model("qwen2_vl"), MiscountsWide)
    for width in range(45, 300):
        processor.image_span((width, 50))
    with pytest.raises(ModelError, match="MiscountsWide is wrong about the tokens of a 300x50 image"):
        processor.image_span((300, 50))  # the 256th size, which is a power of four


def test_sizes_that_are_refused_prove_nothing_about_the_count(tiny_model: TinyModel) -> None:
    """Three of them are as many as must agree before the count is believed."""
    processor = load_processor(tiny_model("pixtral"))
    for size in ((300, 1), (400, 1), (500, 1)):
        with pytest.raises(ValueError, match="height"):
            processor.image_span(size)
    assert processor.image_span((64, 48)) == load_processor(tiny_model("pixtral")).image_span((64, 48))


@pytest.mark.parametrize("family", ["text", "llama3", "gemma"])
def test_a_text_model_is_read_as_transformers_would_read_any(tiny_model: TinyModel, family: str) -> None:
    read, expected = (
        load_processor(tiny_model(family)).processing_class,
        AutoProcessor.from_pretrained(tiny_model(family)),
    )
    assert type(read) is type(expected)
    assert read.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert read.chat_template == expected.chat_template


def test_a_text_model_is_read_without_torch_and_the_classes_of_processors(tiny_model: TinyModel) -> None:
    steps = (
        "import sys; from kto_data.processor import load_processor; load_processor(sys.argv[1]); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", steps, str(tiny_model("text"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"torch._C", "transformers.processing_utils", "datasets"}.isdisjoint(done.stdout.split())

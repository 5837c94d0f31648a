"""Every family of models: ids equal to those TRL makes, and a refusal by name of what TRL cannot take."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from conftest import TinyModel, make_image, make_record, write_jsonl
from conversations import CONVERSATIONS, SIZES, assistant, ids_of_trl, sample, texts_of_trl, user
from PIL import Image, ImageOps

from kto_data.choices import PackImages
from kto_data.cli import main
from kto_data.decode import decode
from kto_data.encode import Encoded, Encoder, ImageRef, Refused
from kto_data.errors import ModelError
from kto_data.image import ImageCheck, from_pixels, load_for_training, probe
from kto_data.packing import packed_name
from kto_data.processor import Processor, load_processor
from kto_data.shard import CachedRow, read_rows, write_shard
from kto_data.template import Rendered

ODD_SIZES = [(1, 1), (2, 2), (200, 1), (1, 200), (201, 1), (1, 201), (600, 3), (300, 300), (1000, 600), (13, 500)]
"""No pixel to speak of, longer than any model likes, and beyond every grid of tiles."""


@pytest.fixture(scope="module", params=tiny_models.IMAGE_FAMILIES)
def vision_processor(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Processor:
    return load_processor(tiny_model(request.param))


def test_ids_of_image_rows_equal_those_of_trl(vision_processor: Processor) -> None:
    samples = [sample(messages, SIZES[shift:]) for shift in range(0, 9, 3) for messages in CONVERSATIONS.values()]
    answers = Encoder(vision_processor).encode(samples)
    for item, answer in zip(samples, answers, strict=True):
        assert isinstance(answer, Encoded), answer
        assert (answer.prompt_ids, answer.completion_ids) == ids_of_trl(vision_processor, item)


@pytest.mark.parametrize("name", ["one image", "two images", "image in the history"])
def test_images_of_odd_sizes_are_those_of_trl_or_refused_where_its_processor_refuses_them(
    vision_processor: Processor, name: str
) -> None:
    encoder = Encoder(load_processor(vision_processor.model))  # has met no size: learns its numbers from odd ones
    for size in ODD_SIZES:
        item = sample(CONVERSATIONS[name], [size])
        (answer,) = encoder.encode([item])
        try:
            expected = ids_of_trl(vision_processor, item)
        except ValueError:
            assert max(size) >= 200 * min(size), "no processor refuses another shape"
            assert isinstance(answer, Refused)
            assert (answer.code, answer.pointer) == ("KTO212", "/images/0")
            assert f"the processor refuses an image of {size[0]}x{size[1]}: " in answer.message
        else:
            assert isinstance(answer, Encoded), answer
            assert (answer.prompt_ids, answer.completion_ids) == expected


def test_a_turned_image_has_the_ids_of_the_upright_one(vision_processor: Processor, tmp_path: Path) -> None:
    encoder = Encoder(vision_processor)
    for orientation in (3, 5, 6, 7, 8):
        path = make_image(tmp_path / f"{orientation}.jpg", 120, 40, orientation=orientation, noise_seed=orientation)
        header = probe(path.name, tmp_path.resolve(), ImageCheck.HEADER).header
        assert header is not None
        item = sample(CONVERSATIONS["one image"], [(header.width, header.height)])
        (answer,) = encoder.encode([item])
        assert isinstance(answer, Encoded), answer
        upright = ImageOps.exif_transpose(Image.open(path))
        assert (answer.prompt_ids, answer.completion_ids) == ids_of_trl(vision_processor, item, [upright])


def test_ids_do_not_depend_on_the_order_of_the_sizes_met(vision_processor: Processor) -> None:
    fresh = load_processor(vision_processor.model)
    samples = [sample(CONVERSATIONS["one image"], [size]) for size in (*SIZES, *ODD_SIZES)]
    there = Encoder(vision_processor).encode(samples)
    back = Encoder(fresh).encode(samples[::-1])
    assert there == back[::-1]


def test_rows_are_decoded_to_what_the_template_wrote_with_each_image_in_its_place(
    vision_processor: Processor, tmp_path: Path
) -> None:
    samples = [sample(messages) for name, messages in CONVERSATIONS.items() if name != "white space"]
    for item, answer in zip(samples, Encoder(vision_processor).encode(samples), strict=True):
        assert isinstance(answer, Encoded), answer
        write_shard(tmp_path, "shard.arrow", [CachedRow(answer, True, "data.jsonl", 1, None)])
        (row,) = read_rows(tmp_path / "shard.arrow")
        decoded = decode(vision_processor, row.encoded)
        pieces = [*decoded.prompt, *decoded.completion]
        spans = [piece for piece in pieces if piece.image is not None]
        assert [piece.image for piece in spans] == list(answer.images)
        for piece, image in zip(spans, answer.images, strict=True):
            span = vision_processor.image_span((image.width, image.height), len(answer.images))
            assert piece.text == span.replacement
        (rendered,) = vision_processor.render([item.record])
        assert isinstance(rendered, Rendered)
        signs = (vision_processor.image_token if piece.image else piece.text for piece in pieces)
        assert "".join(signs) == rendered.whole
        assert "".join(piece.text for piece in decoded.completion) == rendered.split()[1]


def test_packed_images_have_the_ids_that_their_rows_had_unpacked(vision_processor: Processor, tmp_path: Path) -> None:
    make_image(tmp_path / "wide.png", 150, 70, noise_seed=1)
    make_image(tmp_path / "turned.jpg", 160, 90, noise_seed=2, orientation=6)
    make_image(tmp_path / "small.png", 40, 30, noise_seed=3)
    names = {"one image": ["wide.png"], "two images": ["turned.jpg", "small.png"], "text only": []}
    records = [make_record(messages=CONVERSATIONS[name], images=images) for name, images in names.items()]
    data = write_jsonl(tmp_path / "train.jsonl", records)
    command = ["preprocess", str(data), "--model", vision_processor.model, "--quiet", "--jobs", "1"]
    rows = {}
    for packing in ("none", "original", "resized"):
        options = ["--output", str(tmp_path / packing), "--pack-images", packing, "--image-max-pixels", "5000"]
        assert main([*command, *options]) == 0
        rows[packing] = list(read_rows(tmp_path / packing / "train" / "shard-00000.arrow"))
    assert rows["none"] == rows["original"] == rows["resized"]
    for packing in ("original", "resized"):
        for row, name in zip(rows[packing], names, strict=True):
            pictures = [pixels_of(tmp_path / packing / "images", image, packing) for image in row.encoded.images]
            expected = ids_of_trl(vision_processor, sample(CONVERSATIONS[name]), pictures)
            assert (row.encoded.prompt_ids, row.encoded.completion_ids) == expected


def pixels_of(packed: Path, image: ImageRef, packing: PackImages) -> Image.Image:
    """What a training is given of a packed image."""
    content = (packed / packed_name(image, packing)).read_bytes()
    return from_pixels(content) or load_for_training(BytesIO(content), (image.width, image.height))


TOOL = {"type": "function", "function": {"name": "weather", "description": "How it is.", "parameters": {}}}
TEXTS: list[list[dict[str, Any]]] = [
    CONVERSATIONS["text only"],
    [user("one"), assistant("two"), user("three"), assistant("four")],
    [user("Was ist das? 这是什么？ 🟥 é"), assistant("Ein rotes Quadrat – 红色 🟥")],
    [user("  leading"), assistant("trailing  ")],
    [user("a"), assistant("b" * 200)],
]
SYSTEM = [{"role": "system", "content": "Be brief."}, user("quick?"), assistant("Yes — très.")]


@pytest.mark.parametrize("family", ["text", "llama3", "gemma"])
def test_ids_of_text_rows_equal_those_of_trl(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    texts = TEXTS if family == "gemma" else [*TEXTS, SYSTEM]
    tools = [TOOL] if family != "gemma" else None
    samples = [sample(messages) for messages in texts] + [sample(messages, tools=tools) for messages in texts]
    rows = [
        {"prompt": m[:-1], "completion": m[-1:], "label": i % 2 == 0, "tools": with_tools}
        for with_tools in (None, tools)
        for i, m in enumerate(texts)
    ]
    answers = Encoder(load_processor(tiny_model(family))).encode(samples)
    found = [(a.prompt_ids, a.completion_ids) for a in answers if isinstance(a, Encoded)]
    assert found == texts_of_trl(tiny_model(family), tmp_path, rows)


def test_parts_of_text_are_one_text_to_a_text_model(tiny_model: TinyModel) -> None:
    parts = [user([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]), assistant("three")]
    joined = [user("one two"), assistant("three")]
    for family in ("text", "llama3", "gemma"):
        first, second = Encoder(load_processor(tiny_model(family))).encode([sample(parts), sample(joined)])
        assert isinstance(first, Encoded)
        assert first == second


def test_a_message_that_the_template_takes_no_part_in_is_refused_with_its_reason(tiny_model: TinyModel) -> None:
    (answer,) = Encoder(load_processor(tiny_model("gemma"))).encode([sample(SYSTEM)])
    assert isinstance(answer, Refused)
    assert (answer.code, answer.message) == ("KTO505", "the chat template refuses it: System role not supported")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gpt2", "has no chat template"),
        ("paligemma", "^PaliGemmaProcessor takes no text without images: "),
        ("mllama", "^MllamaProcessor writes more into a text than is in it$"),
    ],
)
def test_a_family_that_trl_cannot_train_is_refused_by_name(family: str, message: str, tiny_model: TinyModel) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load_processor(tiny_model(family))
    assert raised.value.hint

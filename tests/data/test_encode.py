"""Ids: equal to those TRL makes, by TRL's own collator and tokenizing step; and nothing cut that was not asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import orjson
import pytest
import tiny_models
from conftest import TinyModel, make_record

from kto_data import image
from kto_data.encode import Encoded, Encoder, ImageRef, Refused, Sample
from kto_data.policy import TooLong
from kto_data.processor import Processor, load_processor
from kto_data.record import Record

SIZES = [(64, 48), (120, 40), (30, 90), (56, 56), (1, 1), (28, 1), (333, 17), (250, 250), (64, 48), (29, 57)]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


IMAGE_PART = {"type": "image"}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one image": [user("<image>What is in this picture?"), assistant("A red square.")],
    "two images": [user("<image>and<image>, which is larger?"), assistant("The first.")],
    "three in a row": [user("<image><image><image>"), assistant("Three.")],
    "image in the middle": [user("Look: <image>\nWell?"), assistant("A circle.")],
    "image in the history": [
        user("<image>What is it?"),
        assistant("A dog."),
        user("And here? <image>"),
        assistant("A cat, naturally."),
    ],
    "text only": [user("hi there"), assistant("hello")],
    "system": [{"role": "system", "content": "Be brief."}, user("<image>Name it."), assistant("Red.")],
    "unicode": [user("<image>Was ist das? 这是什么？ 🟥 é"), assistant("Ein rotes Quadrat – 红色 🟥")],
    "white space": [user("  <image>  what \n\n\n now\t"), assistant("\n\n indented \n")],
    "parts": [
        user([{"type": "text", "text": "Compare "}, IMAGE_PART, {"type": "text", "text": " with "}, IMAGE_PART]),
        assistant([{"type": "text", "text": "Same."}]),
    ],
}


def sample(messages: list[dict[str, Any]], sizes: list[tuple[int, int]] = SIZES) -> Sample:
    record = Record.model_validate_json(orjson.dumps(make_record(messages=messages)))
    num_images = sum(message.num_images() for message in record.messages)
    refs = [ImageRef(f"{i}.png", "", *sizes[i % len(sizes)], num_tokens=0) for i in range(num_images)]
    return Sample(record.model_copy(update={"images": tuple(ref.path for ref in refs)}), tuple(refs))


def ids_of_trl(processor: Processor, item: Sample) -> list[int]:
    """The sequence that TRL's own vision collator makes of the sample, run on real images."""
    from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

    collator = DataCollatorForVisionUnpairedPreference(processor.processing_class, calculate_kl=False)
    messages = [{"role": m.role, "content": [part.model_dump() for part in m.parts()]} for m in item.record.messages]
    images = [image.blank((ref.width, ref.height)) for ref in item.images]
    example = {"images": images, "prompt": messages[:-1], "completion": messages[-1:], "label": True}
    batch = collator([example])
    return batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()


@pytest.fixture(scope="module", params=tiny_models.IMAGE_FAMILIES)
def vision_processor(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Processor:
    return load_processor(tiny_model(request.param))


def test_ids_of_image_rows_equal_those_of_trl(vision_processor: Processor) -> None:
    samples = [sample(messages, SIZES[shift:]) for shift in range(0, 9, 3) for messages in CONVERSATIONS.values()]
    answers = Encoder(vision_processor).encode(samples)
    for item, answer in zip(samples, answers, strict=True):
        assert isinstance(answer, Encoded), answer
        assert answer.prompt_ids + answer.completion_ids == ids_of_trl(vision_processor, item)


def test_ids_do_not_depend_on_the_order_of_the_sizes_met(vision_processor: Processor) -> None:
    fresh = load_processor(vision_processor.model)
    forwards = [sample(CONVERSATIONS["one image"], [size]) for size in SIZES]
    there = Encoder(vision_processor).encode(forwards)
    back = Encoder(fresh).encode(forwards[::-1])
    assert there == back[::-1]


def test_ids_of_text_rows_equal_those_of_trl(tiny_model: TinyModel, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    texts = [
        CONVERSATIONS["text only"],
        [user("one"), assistant("two"), user("three"), assistant("four")],
        [{"role": "system", "content": "Be brief."}, user("quick?"), assistant("Yes — très.")],
        [user("  leading"), assistant("trailing  ")],
        [user("a"), assistant("b" * 200)],
    ]
    rows = [{"prompt": m[:-1], "completion": m[-1:], "label": i % 2 == 0} for i, m in enumerate(texts)]
    folder = tiny_model("text")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = KTOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            args=KTOConfig(str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
    answers = Encoder(load_processor(folder)).encode([sample(messages) for messages in texts])
    expected = [(row["prompt_ids"], row["completion_ids"]) for row in trainer.train_dataset]
    assert [(a.prompt_ids, a.completion_ids) for a in answers if isinstance(a, Encoded)] == expected


def test_tools_and_template_arguments_reach_the_template(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("text"))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    plain = make_record(messages=[user("hi"), assistant("yo")])
    with_tools = Record.model_validate_json(orjson.dumps({**plain, "tools": [tool]}))
    rendered = processor.render(with_tools)
    assert "weather" in rendered.alone
    assert rendered.whole.startswith(rendered.alone)


def test_images_are_refused_by_a_text_model(tiny_model: TinyModel) -> None:
    (answer,) = Encoder(load_processor(tiny_model("text"))).encode([sample(CONVERSATIONS["one image"])])
    assert isinstance(answer, Refused)
    assert answer.code == "KTO506"


def test_the_models_own_control_tokens_in_text_are_refused(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("gemma3"))
    texts = ["see <start_of_image> here", "<end_of_turn>", "<pad", "<|im_end|> is another family's", "plain"]
    answers = Encoder(processor).encode([sample([user(text), assistant("ok")]) for text in texts])
    answers += Encoder(processor).encode([sample([user("see"), assistant("<start_of_image>")])])
    codes = [answer.code if isinstance(answer, Refused) else "kept" for answer in answers]
    assert codes == ["KTO309", "KTO309", "kept", "kept", "kept", "KTO309"]


def test_a_row_that_fits_is_never_touched(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("llava"))
    item = sample(CONVERSATIONS["one image"])
    (free,) = Encoder(processor).encode([item])
    assert isinstance(free, Encoded)
    for policy in TooLong:
        assert Encoder(processor, max_length=free.num_tokens, too_long=policy).encode([item]) == [free]


def test_only_the_tail_of_a_completion_is_ever_cut(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("llava"))
    item = sample(CONVERSATIONS["one image"])
    (free,) = Encoder(processor).encode([item])
    assert isinstance(free, Encoded)
    for max_length in range(1, free.num_tokens):
        encoder = Encoder(processor, max_length=max_length, too_long=TooLong.TRUNCATE_COMPLETION)
        (answer,) = encoder.encode([item])
        if max_length <= free.num_image_tokens:
            assert isinstance(answer, Refused)
            assert answer.code == "KTO503"
        elif max_length <= len(free.prompt_ids):
            assert isinstance(answer, Refused)
            assert answer.code == "KTO502"
        else:
            assert isinstance(answer, Encoded)
            assert answer.prompt_ids == free.prompt_ids
            assert answer.completion_ids == free.completion_ids[: max_length - len(free.prompt_ids)]
            assert answer.num_cut == free.num_tokens - max_length


@pytest.mark.parametrize("policy", [TooLong.ERROR, TooLong.DROP])
def test_a_row_too_long_is_refused_and_not_cut(tiny_model: TinyModel, policy: TooLong) -> None:
    processor = load_processor(tiny_model("text"))
    item = sample(CONVERSATIONS["text only"])
    (free,) = Encoder(processor).encode([item])
    assert isinstance(free, Encoded)
    (answer,) = Encoder(processor, max_length=free.num_tokens - 1, too_long=policy).encode([item])
    assert isinstance(answer, Refused)
    assert answer.code == "KTO501"

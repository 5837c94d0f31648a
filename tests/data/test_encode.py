"""Records to ids: what is refused, and nothing cut that was not asked for."""

from __future__ import annotations

import orjson
import pytest
from conftest import TinyModel, make_record
from conversations import CONVERSATIONS, assistant, sample, user

from kto_data.encode import Encoded, Encoder, Refused
from kto_data.policy import TooLong
from kto_data.processor import load_processor
from kto_data.record import Record
from kto_data.template import Rendered


def test_tools_and_template_arguments_reach_the_template(tiny_model: TinyModel) -> None:
    processor = load_processor(tiny_model("text"))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    plain = make_record(messages=[user("hi"), assistant("yo")])
    with_tools = Record.model_validate_json(orjson.dumps({**plain, "tools": [tool]}))
    (rendered,) = processor.render([with_tools])
    assert isinstance(rendered, Rendered)
    assert "weather" in rendered.alone
    assert rendered.whole.startswith(rendered.alone)


def test_answers_to_one_prompt_are_rendered_as_each_alone(tiny_model: TinyModel) -> None:
    answers, others = [("hi", "yo"), ("hi", "hello"), ("bye", "yo")], [("hi", ""), ("see <image>", "yo"), ("hi", "yo")]
    for family in ("text", "llava"):
        processor = load_processor(tiny_model(family))
        records = [
            Record.model_validate_json(orjson.dumps(make_record(messages=[user(prompt), assistant(answer)])))
            for prompt, answer in answers + others
        ]
        together = processor.render(records)
        assert together == [rendered for record in records for rendered in processor.render([record])]
        assert len({one.alone for one in together if isinstance(one, Rendered)}) == 3


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

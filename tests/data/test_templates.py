"""Chat templates of real models, as TRL ships them: ids equal to those TRL makes with each, or a reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

import pytest
import tiny_models
import trl
from conftest import TinyModel
from conversations import CONVERSATIONS, assistant, ids_of_trl, sample, texts_of_trl, user

from kto_data.encode import Encoded, Encoder, Refused
from kto_data.processor import Processor, load_processor

TEMPLATES = {path.stem: path.read_text() for path in sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja"))}

Turns = list[dict[str, Any]]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "How it is.", "parameters": {}}}]
ORDER = {"role": "system", "content": "Be brief."}
TEXTS: dict[str, tuple[Turns, list[dict[str, Any]] | None]] = {
    "one turn": ([user("Was ist das? 这是什么？ 🟥 é"), assistant("Ein rotes Quadrat – 红色 🟥")], None),
    "two turns": ([user("one"), assistant("two"), user("three"), assistant("four")], None),
    "white space": ([user("  leading"), assistant("trailing  ")], None),
    "system": ([ORDER, user("quick?"), assistant("Yes — très.")], None),
    "tools": ([user("Rain?"), assistant("No.")], TOOLS),
    "system and tools": ([ORDER, user("Rain?"), assistant("No.")], TOOLS),
    "thought": (
        [
            user("1?"),
            assistant("<think>\nhm\n</think>\n\none"),
            user("2?"),
            assistant("<think>\nwell\n</think>\n\ntwo"),
        ],
        None,
    ),
    "no thought": ([user("1?"), assistant("one"), user("2?"), assistant("<think>\n\n</think>\n\ntwo")], None),
}

_OPEN_A_THOUGHT = ["deepseek_r1_distill", "deepseek_r1_distill_training", "deepseekv3", "deepseekv3_training"]
_TAKE_PARTS_ALONE = ["idefics3", "idefics3_training", "smolvlm", "smolvlm_training"]  # as vision models may
REFUSED = [
    ("the prompt by itself ends in '<think>\\n'", _OPEN_A_THOUGHT, set(TEXTS) - {"thought", "no thought"}),
    ("the prompt by itself ends in '<think>\\n'", _OPEN_A_THOUGHT[:1] + _OPEN_A_THOUGHT[2:], {"no thought"}),
    ("the prompt by itself ends in ", ["qwen3_5_nothink", "qwen3_5_nothink_training"], {"thought"}),
    ("the chat template leaves out text of message 4", _OPEN_A_THOUGHT[:1] + _OPEN_A_THOUGHT[2:], {"thought"}),
    ("the chat template leaves out text of message ", _TAKE_PARTS_ALONE, set(TEXTS)),
    ("the chat template refuses it: 'str object' has no", ["llava_next", "llava_next_training"], set(TEXTS)),
    ("the chat template refuses it: System role not", ["gemma", "gemma_training"], {"system", "system and tools"}),
]
"""What begins so is said, under these templates, of these conversations; all others have their ids."""


def is_refused(answer: Encoded | Refused, stem: str, name: str) -> TypeGuard[Refused]:
    """Whether `REFUSED` says so; asserts that it is right."""
    reasons = [reason for reason, stems, names in REFUSED if stem in stems and name in names]
    if not reasons:
        assert isinstance(answer, Encoded), (stem, name, answer)
        return False
    assert isinstance(answer, Refused), (stem, name)
    assert answer.message.startswith(reasons[0]), (stem, name)
    return True


def with_template(folder: Path, template: str) -> Processor:
    processor = load_processor(folder)
    processor.processing_class.chat_template = template
    return processor


def row_of(messages: Turns, template: str, **overrides: Any) -> dict[str, Any]:
    """The conversation as TRL takes it, rendered with `template`."""
    kwargs = {"chat_template": template}
    return {
        "prompt": messages[:-1],
        "completion": messages[-1:],
        "label": True,
        "chat_template_kwargs": kwargs,
        **overrides,
    }


def test_texts_have_the_ids_of_trl_under_every_template_that_it_ships(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tiny_model("llama3")
    samples = [sample(messages, tools=tools) for messages, tools in TEXTS.values()]
    found, rows = [], []
    for stem, template in TEMPLATES.items():
        answers = Encoder(with_template(folder, template)).encode(samples)
        for (name, (messages, tools)), answer in zip(TEXTS.items(), answers, strict=True):
            if not is_refused(answer, stem, name):
                found.append((stem, name, answer.prompt_ids, answer.completion_ids))
                rows.append(row_of(messages, template, tools=tools))
    expected = texts_of_trl(folder, tmp_path, rows)
    for (stem, name, *ids), of_trl in zip(found, expected, strict=True):
        assert tuple(ids) == of_trl, (stem, name)


FAMILIES_BY_TEMPLATE = [
    (stem, family)
    for stem, family in (
        *((stem, "qwen3_vl") for stem in TEMPLATES if stem.startswith("qwen")),
        *((stem, "gemma3") for stem in TEMPLATES if stem.startswith("gemma3")),
        *((stem, "llama4") for stem in TEMPLATES if stem.startswith(("gemma4", "diffusion_gemma"))),
        *((stem, "llava") for stem in TEMPLATES if stem.startswith("lfm2_2_5")),
        *(
            (stem, stem.removesuffix("_training"))
            for stem in TEMPLATES
            if stem.startswith(("idefics", "smol", "llava"))
        ),
    )
    if "image" in TEMPLATES[stem]
]
"""Templates that place images, each with a family whose images have the same sign in the text."""


@pytest.mark.parametrize(("stem", "family"), FAMILIES_BY_TEMPLATE)
def test_images_have_the_ids_of_trl_under_every_template_that_places_them(
    stem: str, family: str, tiny_model: TinyModel
) -> None:
    assert family in tiny_models.IMAGE_FAMILIES
    processor = with_template(tiny_model(family), TEMPLATES[stem])
    items = [sample(messages) for messages in CONVERSATIONS.values()]
    for item, answer in zip(items, Encoder(processor).encode(items), strict=True):
        assert isinstance(answer, Encoded), answer
        assert (answer.prompt_ids, answer.completion_ids) == ids_of_trl(processor, item)


WITHOUT_MARKS = "{%- for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}" + (
    "{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Nothing stands between prompt and completion that a tokenizer would not merge with what follows."""


def test_a_token_across_the_boundary_of_prompt_and_completion_is_of_the_completion(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    messages = [user("Which one?"), assistant("three circles")]
    processor = with_template(tiny_model("text"), WITHOUT_MARKS)
    (answer,) = Encoder(processor).encode([sample(messages)])
    assert isinstance(answer, Encoded), answer
    rows = [row_of(messages, WITHOUT_MARKS)] * 2
    assert [(answer.prompt_ids, answer.completion_ids)] * 2 == texts_of_trl(tiny_model("text"), tmp_path, rows)
    assert processor.detokenize(answer.completion_ids) == " three circles\n"


def test_of_a_model_with_images_no_token_is_across_the_boundary(tiny_model: TinyModel) -> None:
    processor = with_template(tiny_model("llava"), WITHOUT_MARKS.replace("m.content", "m.content[0].text"))
    item = sample([user("Which one?"), assistant("three circles")])
    (answer,) = Encoder(processor).encode([item])
    assert isinstance(answer, Encoded), answer
    assert (answer.prompt_ids, answer.completion_ids) == ids_of_trl(processor, item)
    assert processor.detokenize(answer.completion_ids) == "three circles\n"


def test_a_prompt_that_by_itself_goes_on_otherwise_is_shown_where_it_does(tiny_model: TinyModel) -> None:
    end = "x" * 100
    template = TEMPLATES["qwen2_5"].replace("<|im_start|>assistant\\n' }}", f"<|im_start|>assistant\\n{end}' }}}}")
    assert template != TEMPLATES["qwen2_5"]
    (answer,) = Encoder(with_template(tiny_model("text"), template)).encode([sample(TEXTS["one turn"][0])])
    assert isinstance(answer, Refused)
    assert answer.quotes == (repr("x" * 40 + "…"),)
    assert answer.quotes[0] in answer.message

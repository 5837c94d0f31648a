"""Conversations with images of many shapes, as samples, and the ids that TRL makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import orjson
from conftest import make_record

from kto_data import image
from kto_data.encode import ImageRef, Sample
from kto_data.processor import Processor
from kto_data.record import Record

SIZES: list[tuple[int, int]] = [
    (64, 48),
    (120, 40),
    (30, 90),
    (56, 56),
    (1, 1),
    (28, 1),
    (333, 17),
    (250, 250),
    (64, 48),
    (29, 57),
]


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


def sample(
    messages: list[dict[str, Any]], sizes: list[tuple[int, int]] = SIZES, tools: list[dict[str, Any]] | None = None
) -> Sample:
    """The conversation as a checked record; its images have the `sizes` (width, height), in turn."""
    record = Record.model_validate_json(orjson.dumps(make_record(messages=messages, tools=tools)))
    num_images = sum(message.num_images() for message in record.messages)
    refs = [ImageRef(f"{i}.png", "", *sizes[i % len(sizes)], num_tokens=0) for i in range(num_images)]
    return Sample(record.model_copy(update={"images": tuple(ref.path for ref in refs)}), tuple(refs))


def ids_of_trl(processor: Processor, item: Sample, pictures: list[Any] | None = None) -> tuple[list[int], list[int]]:
    """Prompt and completion ids that TRL's own vision collator makes of the sample; of noise where no `pictures` are
    given."""
    from trl.trainer.kto_trainer import DataCollatorForVisionUnpairedPreference

    collator = DataCollatorForVisionUnpairedPreference(processor.processing_class, calculate_kl=False)
    messages = [{"role": m.role, "content": [part.model_dump() for part in m.parts()]} for m in item.record.messages]
    images = pictures or [image.noise((ref.width, ref.height)) for ref in item.images]
    example = {"images": images, "prompt": messages[:-1], "completion": messages[-1:], "label": True}
    batch = collator([example])
    is_there, is_completion = batch["attention_mask"][0].bool(), batch["completion_mask"][0].bool()
    ids = batch["input_ids"][0]
    return ids[is_there & ~is_completion].tolist(), ids[is_completion].tolist()


def texts_of_trl(folder: Path, output: Path, rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion ids that TRL's own tokenizing step makes of `rows`, of a text model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = KTOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            args=KTOConfig(str(output), max_length=None, use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
    return [(row["prompt_ids"], row["completion_ids"]) for row in trainer.train_dataset]

"""KTO61x: what is in the split that is trained on and in one that it is judged by."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.image import ImageCheck
from kto_data.paths import TRAIN
from kto_data.rules.base import Defect, Requirement, Stage, rule
from kto_data.rules.chunk_facts import ImageFile
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.words import shown_path


@rule("KTO611", "split-leakage", Severity.ERROR, Stage.DATASET, requires=Requirement.EVAL_SPLIT)
def split_leakage(facts: DatasetFacts) -> Iterator[Defect]:
    """No prompt of an evaluation may be one of the training.

    Same prompt and images, whatever the completion and the label: the evaluation is then of what was learnt by heart.
    One finding for each record of the evaluation.

    Bad:  `--split eval=eval.jsonl` with 40 prompts that are in the training data too
    Good: records split by prompt, all completions of one on the same side
    """
    train = facts.splits.get(TRAIN)
    for split in facts.splits.values() if train else ():
        if train is None or split is train:
            continue
        for index, first in split.prompt_keys.seen_in(train.prompt_keys):
            place, other = split.place(index), train.place(first)
            yield Defect(
                f"the prompt is in {train.name} too, at {other.seen_from(place)}",
                path=place.path,
                line=place.line,
                data=(("split", split.name), ("other_path", other.path), ("other_line", other.line)),
            )


@rule("KTO612", "image-leakage", Severity.WARNING, Stage.DATASET, default=False, needs=ImageCheck.HEADER,
      requires=Requirement.EVAL_SPLIT)  # fmt: skip
def image_leakage(facts: DatasetFacts) -> Iterator[Defect]:
    """No image of an evaluation should be one of the training.

    Same bytes, whatever the name: the model has seen the picture, if not the question. Every image file is read in
    full, remote ones left out. One finding for each image of the evaluation, at the first record that names it.

    Bad:  `eval/0001.jpg` with the bytes of `train/8342.jpg`
    Good: records split by image
    """
    train = facts.splits.get(TRAIN)
    if train is None:
        return
    known: dict[int, ImageFile] = {}
    for file in train.files.values():
        known.setdefault(file.digest, file)
    for split in facts.splits.values():
        for file in split.files.values() if split is not train else ():
            other = known.get(file.digest)
            if other is not None:
                which = f"{shown_path(other.given)} of {other.seen_from(file)}"
                yield Defect(
                    f"{shown_path(file.given)} is in {train.name} too, as {which}",
                    path=file.path,
                    line=file.line,
                    data=(("split", split.name), ("other_path", other.path), ("other_line", other.line)),
                )

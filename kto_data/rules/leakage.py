"""KTO61x: what is in the split that is trained on and in one that it is judged by."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.rules.base import Defect, Requirement, Stage, rule
from kto_data.rules.facts import TRAIN, DatasetFacts


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
        leaked = split.prompt_keys.rows_in(train.prompt_keys)
        first = _first_indices(train.prompts, {split.prompts[index] for index in leaked})
        for index in leaked:
            place, other = split.place(index), train.place(first[split.prompts[index]])
            yield Defect(
                f"the prompt is in {train.name} too, at {other.seen_from(place)}",
                path=place.path,
                line=place.line,
                data=(("split", split.name), ("other_path", other.path), ("other_line", other.line)),
            )


def _first_indices(column: array[int], wanted: set[int]) -> dict[int, int]:
    """Where each of the values occurs first."""
    first: dict[int, int] = {}
    if wanted:
        for index, value in enumerate(column):
            if value in wanted:
                first.setdefault(value, index)
    return first

"""KTO5xx: what the model's own tokenizer, chat template and image processor make of a record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kto_data.finding import Severity
from kto_data.image import ImageCheck
from kto_data.rules.base import Defect, Fix, Requirement, Stage, rule
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import SplitFacts

if TYPE_CHECKING:
    from kto_data.encode import Refused

_FEWEST = 30  # samples under which nothing is unusual
_DEVIATIONS = 5.0  # robust standard deviations above the median of log lengths
_LEAST_DEVIATION = 0.15  # of log lengths: where all are alike, a few tokens more are no outlier
_TO_SIGMA = 1.4826  # a median absolute deviation as the standard deviation of normal data


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What the model makes of one sound record: the length of its sequence, or why it has none."""

    num_tokens: int  # 0 where it was refused before its length was known
    refused: Refused | None

    def defects(self, code: str) -> Iterator[Defect]:
        """The refusal, where it is the one that the rule `code` explains."""
        if self.refused is not None and self.refused.code == code:
            yield as_defect(self.refused)


def as_defect(refused: Refused) -> Defect:
    """A refusal of the encoder, as a rule says it."""
    return Defect(refused.message, refused.pointer, quotes=refused.quotes, data=refused.data)


@rule("KTO501", "over-max-length", Severity.WARNING, Stage.TOKENS, needs=ImageCheck.HEADER,
      requires=Requirement.MAX_LENGTH)  # fmt: skip
def over_max_length(facts: TokenFacts) -> Iterator[Defect]:
    """Prompt and completion together should fit the maximum length.

    What does not fit is cut from the completion, which then ends nowhere, or the record is left out. Tokens are those
    that training will see: written by the chat template, images included. A warning here, since `ktodata preprocess`
    asks what to do: it makes no cache of such records, unless `--too-long drop` or `truncate-completion` is given.

    Bad:  a prompt of 900 tokens and a completion of 400, with `--max-length 1024`
    Good: `--max-length 2048`, or a shorter completion
    """
    yield from facts.defects("KTO501")


@rule("KTO502", "prompt-fills-max-length", Severity.ERROR, Stage.TOKENS, fix=Fix.REJECT, needs=ImageCheck.HEADER,
      requires=Requirement.MAX_LENGTH)  # fmt: skip
def prompt_fills_max_length(facts: TokenFacts) -> Iterator[Defect]:
    """The prompt must leave room for the completion.

    Trainers that cut at the maximum length leave no token of the answer: the loss is 0.5, its gradient zero, and
    nobody is told.

    Bad:  a prompt of 1,100 tokens, with `--max-length 1024`
    Good: a prompt of 700 tokens
    """
    yield from facts.defects("KTO502")


@rule("KTO503", "image-tokens-over-max-length", Severity.ERROR, Stage.TOKENS, fix=Fix.REJECT, needs=ImageCheck.HEADER,
      requires=Requirement.MAX_LENGTH)  # fmt: skip
def image_tokens_over_max_length(facts: TokenFacts) -> Iterator[Defect]:
    """The images of a record must not fill the maximum length by themselves.

    How many tokens an image becomes depends on its size: a lower `--image-max-pixels` makes it fewer. Cutting a run of
    image tokens is no way out, since the model then gets more image features than places for them.

    Bad:  two images of 1,200 tokens each, with `--max-length 2048`
    Good: the same with `--image-max-pixels 400000`, or with a higher maximum length
    """
    yield from facts.defects("KTO503")


@rule("KTO504", "length-outlier", Severity.INFO, Stage.DATASET, default=False, requires=Requirement.MODEL)
def length_outlier(facts: DatasetFacts) -> Iterator[Defect]:
    """No record should be far longer than all others.

    One very long record decides how much memory every step must have, and is often two records in one, or a pasted
    log. Counted as far longer: above the median of all lengths in tokens by more than five standard deviations of their
    logarithms (by median absolute deviation, which the outliers themselves do not move), and more than twice it.

    Bad:  8,000 records of about 300 tokens, and one of 30,000
    Good: lengths that go up gradually, however long
    """
    for split in facts.splits.values():
        yield from _outliers(split)


@rule("KTO505", "template-drops-content", Severity.ERROR, Stage.TOKENS, needs=ImageCheck.HEADER,
      requires=Requirement.MODEL)  # fmt: skip
def template_drops_content(facts: TokenFacts) -> Iterator[Defect]:
    """The chat template must write the whole record, and the prompt by itself as it stands before the completion.

    Templates drop what they do not expect: a system message, a second answer, an image; others raise. And where the
    prompt by itself is written otherwise than as the beginning of the conversation, the model is trained on one text
    and asked with another: a template that opens a thought for the answer (`<think>`) wants completions that begin with
    one, and must write it. What an assistant thought in earlier turns may be left out, as templates of reasoning models
    mean to.

    Bad:  a system message, for a model whose template writes the user's and the assistant's alone
    Good: its text at the head of the user's first message
    """
    yield from facts.defects("KTO505")


@rule("KTO506", "model-without-images", Severity.ERROR, Stage.TOKENS, needs=ImageCheck.HEADER,
      requires=Requirement.MODEL)  # fmt: skip
def model_without_images(facts: TokenFacts) -> Iterator[Defect]:
    """Records with images need a model that takes images.

    A text model has no place for them: it would be trained on answers to pictures it never sees.

    Bad:  `"images": ["a.png"]`, for a folder with a tokenizer alone
    Good: the same for a folder with an image processor (`preprocessor_config.json`)
    """
    yield from facts.defects("KTO506")


def _outliers(split: SplitFacts) -> Iterator[Defect]:
    lengths = [length for length in split.tokens if length]
    if len(lengths) < _FEWEST:
        return
    median, bound = _bound(lengths)
    for index, length in enumerate(split.tokens):
        if length > bound:
            place = split.place(index)
            yield Defect(
                f"it is {length:,} tokens; the median is {median:,.0f}, and up to {bound:,.0f} would be usual",
                path=place.path,
                line=place.line,
                data=(("tokens", length), ("median", round(median)), ("usual_up_to", round(bound))),
            )


def _bound(lengths: list[int]) -> tuple[float, float]:
    """The median, and the length from which on a record is far longer than the others."""
    logs = [math.log(length) for length in lengths]
    middle = statistics.median(logs)
    deviation = _TO_SIGMA * statistics.median(abs(value - middle) for value in logs)
    median = math.exp(middle)
    return median, median * max(2.0, math.exp(_DEVIATIONS * max(deviation, _LEAST_DEVIATION)))

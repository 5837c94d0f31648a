"""What the data is like, split by split: labels, lengths, repeats, and what in it is odd.

    DatasetFacts ─▶ Survey ─▶ remarks, reports

A survey has no opinion and no content of any record: texts are named by where they stand. `kto_data.remarks` has the
opinions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kto_data.balance import AdmissibleWeights, admissible_weights
from kto_data.distribution import Distribution, distribution
from kto_data.pairing import Microbatches, microbatches
from kto_data.paths import TRAIN
from kto_data.rules.chunk_facts import Shape
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import SplitFacts
from kto_data.rules.traits import Shortcut, label_order, shortcuts

_NUM_TOP_COMPLETIONS = 5
_NUM_SOURCES = 100  # shown by name, the largest ones


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Samples by label."""

    desirable: int
    undesirable: int

    @property
    def total(self) -> int:
        """Samples of both labels."""
        return self.desirable + self.undesirable


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """Samples of one source; "" is those that name none."""

    source: str
    labels: LabelCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """How many samples have a number of something."""

    value: int
    labels: LabelCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedCompletion:
    """A completion that several samples share: how often, and where it stands first."""

    labels: LabelCounts
    path: str
    line: int
    num_characters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestRun:
    """The longest run of samples of one label, as the data is written."""

    label: bool
    num_samples: int
    first: int  # 1-based number of its first sample within the split
    path: str  # where that stands
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSurvey:
    """Everything about one split."""

    name: str
    labels: LabelCounts
    weights: AdmissibleWeights  # at weights 1 and 1
    sources: tuple[SourceCounts, ...]  # the largest ones
    num_sources: int  # all of them
    messages: tuple[Frequency, ...]  # messages of a sample
    images: tuple[Frequency, ...]  # images of a sample
    completion_length: Distribution  # characters
    sample_tokens: Distribution | None  # tokens of prompt and completion; None without a model
    pixel_area: Distribution | None  # pixels of each image, to three digits; None where no image was looked at
    shortcuts: tuple[Shortcut, ...]  # the worst first
    num_prompts: int  # different ones, images included
    num_prompts_with_both_labels: int
    num_contradictions: int  # samples whose prompt, images and completion also come with the other label
    num_duplicates: int  # samples that repeat an earlier one of the split, label included
    num_repeated_completions: int  # samples whose completion another sample has too
    top_completions: tuple[RepeatedCompletion, ...]
    longest_run: LongestRun
    microbatches: Microbatches | None  # None where no batch size is given, or there are no two samples
    num_prompts_in_train: int  # samples whose prompt is in the train split too; 0 of that split itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All splits that have samples, in the order of the data."""

    splits: tuple[SplitSurvey, ...]

    @property
    def trained(self) -> SplitSurvey | None:
        """The split that is trained on, see `DatasetFacts.trained`; None where there is no sample."""
        return next((split for split in self.splits if split.name == TRAIN), next(iter(self.splits), None))


NO_SAMPLES = Survey(splits=())
"""Of data without a sample that satisfies the schema."""


def survey(facts: DatasetFacts) -> Survey:
    """The survey of all samples that satisfy the schema."""
    return Survey(splits=tuple(_survey_split(split, facts) for split in facts.splits.values()))


def _survey_split(split: SplitFacts, facts: DatasetFacts) -> SplitSurvey:
    trained, batch_size, wholes = facts.trained, facts.batch_size, split.whole_keys
    num_desirable, num_undesirable = split.num_desirable, split.num_undesirable
    sources = sorted(
        (
            SourceCounts(source=name, labels=LabelCounts(desirable=desirable, undesirable=undesirable))
            for name, (desirable, undesirable) in split.sources.items()
        ),
        key=lambda entry: (-entry.labels.total, entry.source),
    )
    areas = distribution(*split.areas_by_label) if split.areas else None
    lengths = distribution(*split.lengths_by_label)
    return SplitSurvey(
        name=split.name,
        labels=LabelCounts(desirable=num_desirable, undesirable=num_undesirable),
        weights=admissible_weights(num_desirable, num_undesirable),
        sources=tuple(sources[:_NUM_SOURCES]),
        num_sources=len(sources),
        messages=_frequencies(split, lambda shape: shape.num_messages),
        images=_frequencies(split, lambda shape: shape.num_images),
        completion_length=lengths,
        sample_tokens=distribution(*split.tokens_by_label) if split.tokens else None,
        pixel_area=areas,
        shortcuts=shortcuts(split),
        num_prompts=split.prompt_keys.num_distinct,
        num_prompts_with_both_labels=split.prompt_keys.num_under_both,
        num_contradictions=wholes.num_opposed_in(facts.whole_keys),
        num_duplicates=len(wholes) - wholes.num_distinct - wholes.num_under_both,  # all but one of each label
        num_repeated_completions=split.completion_keys.num_repeated,
        top_completions=_top_completions(split),
        longest_run=_longest_run(split),
        microbatches=microbatches(split.labels, split.completion_keys.commonest, batch_size)
        if batch_size and len(split) >= 2
        else None,
        num_prompts_in_train=len(split.prompt_keys.rows_in(trained.prompt_keys))
        if trained and trained is not split
        else 0,
    )


def _frequencies(split: SplitFacts, number: Callable[[Shape], int]) -> tuple[Frequency, ...]:
    found: dict[int, Counter[bool]] = {}
    for shape, count in split.shapes.items():
        found.setdefault(number(shape), Counter())[shape.label] += count
    return tuple(Frequency(value=value, labels=_label_counts(found[value])) for value in sorted(found))


def _top_completions(split: SplitFacts) -> tuple[RepeatedCompletion, ...]:
    top = []
    for entry in split.completion_keys.most_common(_NUM_TOP_COMPLETIONS):
        place = split.place(entry.first)
        top.append(
            RepeatedCompletion(
                labels=LabelCounts(desirable=entry.num_desirable, undesirable=entry.count - entry.num_desirable),
                path=place.path,
                line=place.line,
                num_characters=split.lengths[entry.first],
            )
        )
    return tuple(top)


def _longest_run(split: SplitFacts) -> LongestRun:
    run = label_order(split).longest
    place = split.place(run.start)
    return LongestRun(
        label=run.label, num_samples=run.num_samples, first=run.start + 1, path=place.path, line=place.line
    )


def _label_counts(counts: Counter[bool]) -> LabelCounts:
    return LabelCounts(desirable=counts[True], undesirable=counts[False])

"""A survey for people: what the data is like, and what of it is worth a look."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kto_data.balance import AdmissibleWeights, Verdict
from kto_data.distribution import Distribution, Separation
from kto_data.remarks import remarks
from kto_data.report.text import Paint, remark_lines
from kto_data.rules.words import counted
from kto_data.safe_text import printable
from kto_data.survey import Frequency, LabelCounts, SplitSurvey, Survey

_BOLD, _DIM, _GREEN, _YELLOW = "1", "2", "32", "33"
_BAR_WIDTH = 30
_HALF_BAR = 19
_SHOWN_SOURCES = 12


def survey_lines(survey: Survey, paint: Paint) -> Iterator[str]:
    """The lines of `ktodata stats`: each split in turn, then what is worth a look."""
    if not survey.splits:
        yield "no record can be read: there is nothing to count (see `ktodata validate`)"
    for split in survey.splits:
        yield from _split_lines(split, paint, advise=split is survey.trained)
        yield ""
    yield from remark_lines(remarks(survey), paint, "what no rule forbids", num_splits=len(survey.splits))


def bar(number: int, most: int, width: int) -> str:
    """A bar of blocks; the least that is not nothing is seen."""
    full, eighths = divmod(max(round(8 * width * number / most), 1) if number else 0, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[eighths] if eighths else "")


def separation_words(separation: Separation) -> str:
    """How well a number tells the labels apart; of few samples any number seems to."""
    scale = "0.5: not at all, 1: fully" if separation.exceeds(0.5) else "no more than by chance"
    return f"tells the labels apart with AUC {separation.strength:.2f} ({scale})"


def _split_lines(split: SplitSurvey, paint: Paint, *, advise: bool) -> Iterator[str]:
    head = f"{counted(split.labels.total, 'sample')} of {counted(split.num_prompts, 'prompt')}"
    yield f"{paint(printable(split.name), _BOLD)}  {head}, {split.num_prompts_with_both_labels:,} with both labels"
    yield ""
    yield from _label_lines(split, paint, advise=advise)
    yield from _source_lines(split, paint)
    yield from _frequency_lines("messages a sample", split.messages, paint)
    yield from _frequency_lines("images a sample", split.images, paint)
    for title, distribution in (
        ("completion length, characters", split.completion_length),
        ("sample length, tokens", split.sample_tokens),
        ("image area, pixels", split.pixel_area),
    ):
        if distribution is not None:
            yield from _distribution_lines(title, distribution, paint)
    yield from _repeat_lines(split, paint)
    yield from _batch_lines(split, paint)


def _label_lines(split: SplitSurvey, paint: Paint, *, advise: bool) -> Iterator[str]:
    yield paint("labels", _BOLD)
    for name, number in (("desirable", split.labels.desirable), ("undesirable", split.labels.undesirable)):
        drawn = paint(f"{bar(number, split.labels.total, _BAR_WIDTH):<{_BAR_WIDTH}}", _GREEN)
        yield f"  {name:<11} {number:>11,}  {drawn} {number / split.labels.total:>4.0%}"
    yield from (f"  {line}" for line in balance_lines(split.weights, advise=advise))


def balance_lines(weights: AdmissibleWeights, *, advise: bool) -> Iterator[str]:
    """The balance of a split in words; with `advise` the weights that would mend it."""
    if weights.balance is None or weights.trl is None or weights.paper is None:
        yield "balance undefined: one label has no samples"
    elif weights.verdict is Verdict.BALANCED:
        yield f"balance {weights.balance:.3g}, within [1, 4/3]" + (": train with both weights at 1" if advise else "")
    else:
        yield f"balance {weights.balance:.3g}, outside [1, 4/3]" + ("; change one weight, to within" if advise else "")
        if advise:
            yield f"  desirable_weight   {weights.trl.desirable} (by the paper {weights.paper.desirable})"
            yield f"  undesirable_weight {weights.trl.undesirable} (by the paper {weights.paper.undesirable})"


def _source_lines(split: SplitSurvey, paint: Paint) -> Iterator[str]:
    if split.num_sources < 2:
        return
    yield ""
    yield f"{paint('sources', _BOLD)}{'desirable':>40}{'undesirable':>13}"
    for entry in split.sources[:_SHOWN_SOURCES]:
        name = textwrap.shorten(printable(entry.source) or "(none)", 34, placeholder="…")
        yield f"  {name:<34} {entry.labels.desirable:>10,} {entry.labels.undesirable:>12,}"
    if split.num_sources > _SHOWN_SOURCES:
        yield f"  … and {split.num_sources - _SHOWN_SOURCES:,} more"


def _frequency_lines(title: str, frequencies: Sequence[Frequency], paint: Paint) -> Iterator[str]:
    if [entry.value for entry in frequencies] == [0]:
        return
    yield ""
    yield paint(title, _BOLD)
    shown = [f"{entry.value:,}: {_shares(entry.labels)}" for entry in frequencies[:8]]
    more = frequencies[8:]
    if more:
        total = sum(entry.labels.total for entry in more)
        shown.append(f"{more[0].value:,} to {more[-1].value:,}: {counted(total, 'sample')}")
    yield from (f"  {line}" for line in shown)


def _shares(labels: LabelCounts) -> str:
    return f"{counted(labels.total, 'sample')} ({labels.desirable:,} desirable, {labels.undesirable:,} undesirable)"


def quantile_lines(title: str, distribution: Distribution, paint: Paint) -> Iterator[str]:
    """A small table: the quantiles under either label, and whether they tell the labels apart."""
    yield f"{paint(f'{title:<30}', _BOLD)}{'least':>10}{'10 %':>9}{'half':>9}{'90 %':>9}{'most':>12}"
    for name, values in (("desirable", distribution.desirable), ("undesirable", distribution.undesirable)):
        if values is not None:
            least, p10, p50, p90, most = values
            yield f"  {name:<28}{least:>10,}{p10:>9,}{p50:>9,}{p90:>9,}{most:>12,}"
    separation = distribution.separation
    if separation is not None:
        yield f"  {separation_words(separation)}"


def _distribution_lines(title: str, distribution: Distribution, paint: Paint) -> Iterator[str]:
    yield ""
    yield from quantile_lines(title, distribution, paint)
    yield ""
    most = max(max(entry.desirable, entry.undesirable) for entry in distribution.bins)
    width = max(len(entry.words) for entry in distribution.bins)
    yield f"  {'':>{width}}  {'desirable':<{_HALF_BAR + 10}} {'undesirable'}"
    for entry in distribution.bins:
        sides = [
            f"{paint(f'{bar(number, most, _HALF_BAR):<{_HALF_BAR}}', color)} {number:>9,}"
            for number, color in ((entry.desirable, _GREEN), (entry.undesirable, _YELLOW))
        ]
        yield f"  {entry.words:>{width}}  {' '.join(sides)}"


def _repeat_lines(split: SplitSurvey, paint: Paint) -> Iterator[str]:
    found = [
        f"{counted(split.num_duplicates, 'sample')} repeat an earlier one" if split.num_duplicates else "",
        f"{counted(split.num_contradictions, 'sample')} come with the other label too"
        if split.num_contradictions
        else "",
        f"{counted(split.num_prompts_in_train, 'sample')} with a prompt of train" if split.num_prompts_in_train else "",
    ]
    if split.num_repeated_completions:
        share = split.num_repeated_completions / split.labels.total
        found.append(
            f"{counted(split.num_repeated_completions, 'sample')} ({share:.0%}) share their completion with another:"
        )
        found += [
            f"  {entry.labels.total:>8,} times ({entry.labels.desirable:,} desirable, {entry.labels.undesirable:,} "
            f"undesirable), first at {printable(entry.path)}:{entry.line}"
            for entry in split.top_completions
        ]
    run = split.longest_run
    found.append(
        f"longest run of one label: {counted(run.num_samples, 'sample')} {'true' if run.label else 'false'}, from "
        f"{printable(run.path)}:{run.line} on"
    )
    yield ""
    yield paint("repeats and order", _BOLD)
    yield from (f"  {line}" for line in found if line)


def _batch_lines(split: SplitSurvey, paint: Paint) -> Iterator[str]:
    batches = split.microbatches
    if batches is None:
        return
    yield ""
    yield f"{paint('batches', _BOLD)}  {batches.number:,} of {counted(batches.batch_size, 'sample')}"
    for how, share in (
        ("as written", batches.num_one_label_as_written / batches.number),
        ("shuffled", batches.share_one_label_shuffled),
        ("labels spread", batches.num_one_label_interleaved / batches.number),
    ):
        yield f"  {how:<14} {share:>6.1%} have one label only"
    if batches.num_self_pairs:
        yield f"  {counted(batches.num_self_pairs, 'sample')} would meet their own completion however they are grouped"

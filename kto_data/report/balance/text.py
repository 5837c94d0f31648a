"""The label balance report in a terminal: short, and at its end what to put into the training configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kto_data.balance import Verdict
from kto_data.paths import TRAIN
from kto_data.report.balance.model import BalanceReport, Band, LabelCounts, SplitReport, Stages, Weights
from kto_data.report.stats_text import quantile_lines
from kto_data.report.text import Paint, cut, remark_lines
from kto_data.rules import ALL_RULES
from kto_data.rules.words import counted
from kto_data.safe_text import printable

_BOLD, _DIM, _GREEN, _YELLOW = "1", "2", "32", "33"
_SHOWN_SOURCES = 12
_BAR_WIDTH = 24
_NAME_WIDTH = 24
_RULES = {rule.code: rule for rule in ALL_RULES}
VERDICTS = {
    Verdict.BALANCED.value: "within [1, 4/3]",
    Verdict.WIDE.value: "over 4/3, within [1, 3/2]",
    Verdict.TOO_LOW.value: "under 1: the undesirable rows weigh more",
    Verdict.TOO_HIGH.value: "over 3/2: the desirable rows weigh too much",
    Verdict.UNDEFINED.value: "undefined: one label has no rows",
}
"""What a verdict about the balance value means."""


def balance_lines(report: BalanceReport, paint: Paint) -> Iterator[str]:
    """The report as lines, at most 80 columns wide."""
    for name, split in report.splits.items():
        yield from _split_lines(name, split, paint)
        yield ""
    yield from remark_lines(report.remarks, paint, "what no rule forbids", num_splits=len(report.splits))
    trained = report.splits.get(TRAIN)
    if trained is not None:
        yield from ("",) if report.remarks else ()
        yield from _weight_lines(trained.weights, paint)


def headline(split: SplitReport) -> list[str]:
    """What a split is, in a few parts of a line."""
    parts = [
        f"{counted(split.counts.kept, 'row')} of {split.counts.read:,} read",
        f"{counted(split.num_prompts, 'prompt')}, {split.num_prompts_with_both_labels:,} with both labels",
    ]
    if split.num_images:
        parts.append(f"{counted(split.num_images, 'image')} ({counted(split.num_image_files, 'file')})")
    return parts


def reason_words(reason: str) -> str:
    """Why rows were dropped, with the rule's name."""
    return f"{reason} {_RULES[reason].name}" if reason in _RULES else reason


def shortcut_words(split: SplitReport) -> str:
    """How well each property alone tells the labels apart, as its AUC, the worst first."""
    return ", ".join(f"{entry.property} {entry.separation.strength:.2f}" for entry in split.shortcuts)


def told_stages(stages: Stages) -> tuple[tuple[str, LabelCounts], ...]:
    """The stages that lost rows, and the last one: of data that is kept whole the others say the same."""
    named = stages.named()
    return named if named[0][1] != named[-1][1] else named[-1:]


def number(value: float | None) -> str:
    """A balance value in few digits."""
    return "undefined" if value is None else f"{value:.3g}"


def _split_lines(name: str, split: SplitReport, paint: Paint) -> Iterator[str]:
    rows, *more = headline(split)
    yield f"{paint(printable(name), _BOLD)}  {rows}"
    yield f"  {' · '.join(more)}"
    yield ""
    yield from _stage_lines(split.stages, paint)
    yield from _drop_lines(split.counts.dropped_by_label, split.stages.read, paint)
    yield from _source_lines(split, paint)
    yield ""
    tokens = {label: sum((entry.prompt, entry.completion)) for label, entry in split.tokens.items()}
    yield f"{paint('tokens', _BOLD)}  {_both(tokens['desirable'], tokens['undesirable'])}" + _image_share(split)
    yield from quantile_lines("tokens a row", split.row_tokens, paint)
    yield from quantile_lines("tokens a completion", split.completion_tokens, paint)
    yield ""
    yield from _repeat_lines(split, paint)
    yield from _batch_lines(split, paint)


def _both(desirable: int, undesirable: int) -> str:
    return f"{desirable:,} desirable, {undesirable:,} undesirable"


def _image_share(split: SplitReport) -> str:
    total = sum(entry.prompt + entry.completion for entry in split.tokens.values())
    images = sum(entry.image for entry in split.tokens.values())
    return f"; {images / total:.0%} are images" if images else ""


def _stage_lines(stages: Stages, paint: Paint) -> Iterator[str]:
    has_unreadable = stages.read.unreadable > 0
    extra = f"{'unreadable':>12}" if has_unreadable else ""
    yield f"{paint('labels'.ljust(14), _BOLD)}{'█ desirable':>12}{'░ undesirable':>14}{extra}{'balance':>11}"
    for name, counts in told_stages(stages):
        extra = f"{counts.unreadable:>12,}" if has_unreadable else ""
        yield (
            f"  {name:<12}{counts.desirable:>12,}{counts.undesirable:>14,}{extra}{number(counts.balance):>11}  "
            f"{_two_bars(stages.kept, paint) if name == 'kept' and not has_unreadable else ''}".rstrip()
        )


def _two_bars(counts: LabelCounts, paint: Paint) -> str:
    """Both labels in one bar, the desirable rows in front."""
    total = counts.desirable + counts.undesirable
    width = round(_BAR_WIDTH * counts.desirable / total) if total else 0
    # What is there is seen, however little it is.
    width = min(max(width, bool(counts.desirable)), _BAR_WIDTH - bool(counts.undesirable))
    return paint("█" * width, _GREEN) + paint("░" * (_BAR_WIDTH - width), _YELLOW) if total else ""


def _drop_lines(dropped: Mapping[str, Mapping[str, int]], read: LabelCounts, paint: Paint) -> Iterator[str]:
    if not dropped:
        return
    yield ""
    yield f"{paint('dropped for'.ljust(34), _BOLD)}{'desirable':>14}{'undesirable':>16}{'unreadable':>12}"
    for reason, labels in dropped.items():
        sides = ((labels.get("true", 0), read.desirable), (labels.get("false", 0), read.undesirable))
        shown = [f"{rows:,} ({rows / total:.0%})" if total else "0" for rows, total in sides]
        words = cut(reason_words(reason), 29)
        yield f"  {words:<32}{shown[0]:>14}{shown[1]:>16}{labels.get('unreadable', 0):>12,}"


def _source_lines(split: SplitReport, paint: Paint) -> Iterator[str]:
    if split.num_sources < 2:
        return
    yield ""
    yield f"{paint('sources'.ljust(_NAME_WIDTH + 2), _BOLD)}{'desirable':>12}{'undesirable':>13}"
    for entry in split.sources[:_SHOWN_SOURCES]:
        name = cut(entry.source, _NAME_WIDTH - 4) or "(none)"
        kept = entry.stages.kept
        yield f"  {name:<{_NAME_WIDTH}}{kept.desirable:>12,}{kept.undesirable:>13,}  {_two_bars(kept, paint)}".rstrip()
    if split.num_sources > _SHOWN_SOURCES:
        yield f"  … and {split.num_sources - _SHOWN_SOURCES:,} more (report.json, report.html)"


def _repeat_lines(split: SplitReport, paint: Paint) -> Iterator[str]:
    yield (
        f"{paint('repeats', _BOLD)}  rows that repeat an earlier one: {split.num_duplicates:,}, "
        f"that contradict another: {split.num_contradictions:,}"
    )
    for top in split.top_completions[:1]:
        rows = top.desirable + top.undesirable
        yield f"  most frequent completion: {counted(rows, 'row')}, {cut(top.text, 78 - 40 - len(str(rows)))}"
    if split.shortcuts:
        yield f"{paint('labels', _BOLD)}  told apart by one property alone (AUC; 0.50: not at all)"
        yield f"  {shortcut_words(split)}"
    if split.leakage is not None:
        yield (
            f"{paint('leakage', _BOLD)}  the train split knows the prompt of "
            f"{counted(split.leakage.num_same_prompt, 'row')}, an image of {split.leakage.num_same_image:,}"
        )


def _batch_lines(split: SplitReport, paint: Paint) -> Iterator[str]:
    batches = split.microbatches
    if batches is None:
        return
    head = f"{batches.number:,} in batches of {batches.batch_size}, the smallest of {batches.smallest}"
    yield f"{paint('groups', _BOLD)}  {head}"
    yield (
        f"  of one label alone: {batches.num_one_label_as_written / batches.number:.1%} in the order of the data, "
        f"{batches.num_one_label_interleaved / batches.number:.1%} interleaved"
    )
    yield f"  rows that meet their own completion however they are grouped: {batches.num_self_pairs:,}"


def _weight_lines(weights: Weights, paint: Paint) -> Iterator[str]:
    yield f"{paint('weights', _BOLD)}  b = {number(weights.balance)} at 1 and 1, {VERDICTS[weights.verdict]}"
    if weights.trl is None or weights.paper is None:
        return
    if weights.verdict != Verdict.BALANCED.value:
        yield f"  change one, to within{'[1, 4/3]':>20}{'[1, 3/2] (paper)':>24}"
        for name, trl, paper in _intervals(weights.trl, weights.paper):
            yield f"    {name:<19}{trl:>20}{paper:>22}"
    yield "for the training configuration"
    yield from (f"  {line}" for line in weights.paste)


def _intervals(trl: Band, paper: Band) -> Iterator[tuple[str, str, str]]:
    yield "desirable", interval(trl.desirable_weight), interval(paper.desirable_weight)
    yield "undesirable", interval(trl.undesirable_weight), interval(paper.undesirable_weight)


def interval(bounds: tuple[float, float]) -> str:
    """An interval of weights in few digits."""
    return f"[{bounds[0]:.4g}, {bounds[1]:.4g}]"

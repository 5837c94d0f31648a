"""What of a cache is worth a look: plain sentences for people. Nothing of it stops a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kto_data.distribution import Quantiles
from kto_data.remarks import SHORTCUT_AUC, Remark, batch_remarks, length_words, shortcut_remark, source_words
from kto_data.rules.words import counted

if TYPE_CHECKING:
    from kto_data.report.balance.model import SplitReport

_SHIFT = 1.1  # by which factor drops may change the balance before it is spoken of
_LARGE_SHARE = 0.05  # of rows that share their completion with another
_MANY_TIMES = 5  # that a completion must occur to be spoken of


def balance_remarks(splits: Mapping[str, SplitReport]) -> Iterator[Remark]:
    """All that is worth a look, split by split; the worst first."""
    for name, split in splits.items():
        for kind, text in (
            *_leaks(split),
            *_shortcuts(split),
            *_equal_rows(split),
            *_drops(split),
            *_groups(split),
        ):
            yield Remark(kind=kind, split=name, text=text)


def _leaks(split: SplitReport) -> Iterator[tuple[str, str]]:
    leak = split.leakage
    if leak and leak.num_same_prompt:
        yield "leaked-prompts", f"{counted(leak.num_same_prompt, 'row')} with a prompt that the train split has too"
    if leak and leak.num_same_image:
        yield "leaked-images", f"{counted(leak.num_same_image, 'row')} with an image that the train split has too"


def _shortcuts(split: SplitReport) -> Iterator[tuple[str, str]]:
    for shortcut in split.shortcuts:
        if shortcut.separation.exceeds(SHORTCUT_AUC):
            yield shortcut_remark(shortcut.property, shortcut.separation, _how(split, shortcut.property))


def _how(split: SplitReport, name: str) -> str:
    if name == "completion length":
        return length_words(split.completion_tokens, "tokens")
    if name == "source":
        labels = [(entry.stages.kept.desirable, entry.stages.kept.undesirable) for entry in split.sources]
        return source_words(labels, split.num_sources)
    found = split.pixels if name == "pixel area" else split.images
    assert found is not None
    unit = "pixels" if name == "pixel area" else "images"
    medians = (_median(found.desirable), _median(found.undesirable))
    return f"a median of {medians[0]} {unit} a desirable row, {medians[1]} an undesirable one"


def _median(values: Quantiles | None) -> str:
    assert values is not None
    return f"{values.p50:,}"


def _equal_rows(split: SplitReport) -> Iterator[tuple[str, str]]:
    if split.num_contradictions:
        yield (
            "contradictions",
            f"{counted(split.num_contradictions, 'row')} say the same under both labels: they cancel each other",
        )
    if split.num_duplicates:
        verb = "repeats" if split.num_duplicates == 1 else "repeat"
        yield "duplicates", f"{counted(split.num_duplicates, 'row')} {verb} an earlier one, label included"
    top = next(iter(split.top_completions), None)
    share = split.num_repeated_completions / max(1, split.counts.kept)
    if top and top.desirable + top.undesirable >= _MANY_TIMES and share > _LARGE_SHARE:
        yield (
            "repeated-completions",
            f"answers repeat: {counted(split.num_repeated_completions, 'row')} ({share:.0%}) have a completion that "
            f"another one has too, the most frequent {top.desirable + top.undesirable:,} times "
            f"({top.desirable:,} desirable, {top.undesirable:,} undesirable)",
        )


def _drops(split: SplitReport) -> Iterator[tuple[str, str]]:
    before = split.stages.read
    for stage, after, why in (
        ("valid", split.stages.valid, "invalid rows"),
        ("not-too-long", split.stages.not_too_long, "rows that are too long"),
        ("kept", split.stages.kept, "contradictions"),
    ):
        if before.balance and after.balance and not 1 / _SHIFT < after.balance / before.balance < _SHIFT:
            lost = [before.desirable - after.desirable, before.undesirable - after.undesirable]
            yield (
                f"balance-shift-{stage}",
                f"without {why} the balance goes from {before.balance:.3g} to {after.balance:.3g}: "
                f"{lost[0] / before.desirable:.0%} of the desirable rows are dropped and "
                f"{lost[1] / before.undesirable:.0%} of the undesirable ones",
            )
        before = after
    cut = split.counts.truncated_by_label
    if cut:
        yield (
            "truncated",
            f"{counted(sum(cut.values()), 'completion')} lost the tail ({cut.get('true', 0):,} desirable, "
            f"{cut.get('false', 0):,} undesirable): an answer without its end is taught as one",
        )


def _groups(split: SplitReport) -> Iterator[tuple[str, str]]:
    batches = split.microbatches
    if split.weights.balance is None:
        yield "single-label", "one label has no rows, and KTO learns from the contrast: no weight can balance that"
        return
    if batches is None:
        return
    if batches.num_self_pairs:
        yield (
            "self-pairs",
            f"{counted(batches.num_self_pairs, 'row')} would have their KL term measured on their own completion, "
            f"however they are put into batches of {batches.batch_size}",
        )
    yield from batch_remarks(batches)

"""The label balance report as Markdown: for the summary of a CI step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kto_data.distribution import Distribution
from kto_data.paths import TRAIN
from kto_data.report.balance.model import BalanceReport, LabelCounts, SplitReport, Weights
from kto_data.report.balance.text import VERDICTS, headline, interval, number, reason_words, shortcut_words, told_stages
from kto_data.report.markdown import cell
from kto_data.report.text import cut

_MOST_OF_NAME = 120  # characters
_MOST_SOURCES, _MOST_REMARKS = 50, 30


def balance_markdown(report: BalanceReport) -> str:
    """What is worth a look, the weights, and tables of each split: some 10 kB."""
    lines = [f"### ktodata preprocess: label balance of cache {report.fingerprint[:12]}", ""]
    lines += _remark_lines(report)
    trained = report.splits.get(TRAIN)
    if trained is not None:
        lines += _weight_lines(trained.weights)
    for name, split in report.splits.items():
        lines += [f"#### {_name(name)}", "", cell(" · ".join(headline(split))) + ".", ""]
        lines += _split_lines(split)
    return "\n".join(lines).rstrip("\n") + "\n"


def _remark_lines(report: BalanceReport) -> Iterator[str]:
    if not report.remarks:
        return
    yield from ("**Worth a look**", "")
    for remark in report.remarks[:_MOST_REMARKS]:
        which = f"{_name(remark.split)}: " if len(report.splits) > 1 else ""
        yield f"- {which}{cell(cut(remark.text, 600))}"
    if len(report.remarks) > _MOST_REMARKS:
        yield f"- … and {len(report.remarks) - _MOST_REMARKS:,} more"
    yield ""


def _weight_lines(weights: Weights) -> Iterator[str]:
    yield f"**Weights**: b = {number(weights.balance)} at 1 and 1, {cell(VERDICTS[weights.verdict])}."
    yield ""
    if weights.trl is None or weights.paper is None:
        return
    yield from _table(
        ("change one weight", "to within \\[1, 4/3]", "to within \\[1, 3/2] (paper)"),
        [
            ("desirable", interval(weights.trl.desirable_weight), interval(weights.paper.desirable_weight)),
            ("undesirable", interval(weights.trl.undesirable_weight), interval(weights.paper.undesirable_weight)),
        ],
    )
    yield "For the training configuration:"
    yield from ("", "```yaml", *weights.paste, "```", "")


def _split_lines(split: SplitReport) -> Iterator[str]:
    yield from _table(
        ("rows", "desirable", "undesirable", "unreadable", "balance"),
        [(name, *_counts(counts)) for name, counts in told_stages(split.stages)],
    )
    if split.counts.dropped_by_label:
        dropped = split.counts.dropped_by_label.items()
        yield from _table(
            ("dropped for", "desirable", "undesirable", "unreadable"),
            [
                (cell(reason_words(reason)), *(f"{labels.get(key, 0):,}" for key in ("true", "false", "unreadable")))
                for reason, labels in dropped
            ],
        )
    if split.num_sources > 1:
        yield from _source_lines(split)
    yield from _table(
        ("tokens", "prompt", "of it images", "completion"),
        [
            (label, f"{tokens.prompt:,}", f"{tokens.image:,}", f"{tokens.completion:,}")
            for label, tokens in split.tokens.items()
        ],
    )
    yield from _table(("", "label", "least", "10 %", "half", "90 %", "most", "AUC"), _quantile_rows(split))
    yield from _repeat_lines(split)
    yield from _group_lines(split)


def _counts(counts: LabelCounts) -> tuple[str, ...]:
    return f"{counts.desirable:,}", f"{counts.undesirable:,}", f"{counts.unreadable:,}", number(counts.balance)


def _source_lines(split: SplitReport) -> Iterator[str]:
    shown = split.sources[:_MOST_SOURCES]
    rows = [(_name(entry.source) or "(none)", *_counts(entry.stages.kept)) for entry in shown]
    rows = [(name, desirable, undesirable, balance) for name, desirable, undesirable, _, balance in rows]
    yield from _table(("source (rows kept)", "desirable", "undesirable", "balance"), rows)
    if split.num_sources > len(shown):
        yield from (f"… and {split.num_sources - len(shown):,} more sources.", "")


def _quantile_rows(split: SplitReport) -> Iterator[tuple[str, ...]]:
    for title, found in (
        ("tokens a row", split.row_tokens),
        ("tokens a completion", split.completion_tokens),
        ("images a row", split.images if split.num_images else None),
        ("pixels a row", split.pixels),
    ):
        if found is not None:
            yield from _quantiles(title, found)


def _quantiles(title: str, found: Distribution) -> Iterator[tuple[str, ...]]:
    separation = found.separation
    told = ""
    if separation is not None:
        told = f"{separation.strength:.2f}" + ("" if separation.exceeds(0.5) else " (chance)")
    for label, values in (("desirable", found.desirable), ("undesirable", found.undesirable)):
        if values is not None:
            yield title, label, *(f"{value:,}" for value in values), told
            title, told = "", ""


def _repeat_lines(split: SplitReport) -> Iterator[str]:
    yield (
        f"{split.num_contradictions:,} rows contradict others, {split.num_duplicates:,} repeat an earlier one, "
        f"{split.num_repeated_completions:,} have a completion that another one has too."
    )
    yield ""
    if split.shortcuts:
        yield from (f"Labels told apart by one property alone (AUC; 0.50: not at all): {shortcut_words(split)}.", "")
    if split.top_completions:
        yield from _table(
            ("most frequent completions", "desirable", "undesirable"),
            [(cell(top.text), f"{top.desirable:,}", f"{top.undesirable:,}") for top in split.top_completions],
        )
    if split.leakage is not None:
        yield (
            f"Of these rows the train split knows the prompt of {split.leakage.num_same_prompt:,} and an image of "
            f"{split.leakage.num_same_image:,}."
        )
        yield ""


def _group_lines(split: SplitReport) -> Iterator[str]:
    batches = split.microbatches
    if batches is None:
        return
    yield (
        f"Groups: {batches.number:,} in batches of {batches.batch_size}, the smallest of {batches.smallest}; of one "
        f"label alone {batches.num_one_label_as_written / batches.number:.1%} in the order of the data, "
        f"{batches.share_one_label_shuffled:.1%} shuffled, "
        f"{batches.num_one_label_interleaved / batches.number:.1%} interleaved. Rows that meet their own completion "
        f"however they are grouped: {batches.num_self_pairs:,}."
    )
    yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _name(text: str) -> str:
    return cell(cut(text, _MOST_OF_NAME))

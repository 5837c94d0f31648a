"""The label balance report as one HTML file with pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kto_data import __version__
from kto_data.balance import Verdict
from kto_data.paths import TRAIN
from kto_data.remarks import Remark
from kto_data.report.balance.model import BalanceReport, LabelCounts, SourceCounts, SplitReport, Weights
from kto_data.report.balance.text import VERDICTS, headline, interval, number, reason_words, shortcut_words, told_stages
from kto_data.report.chart import Histogram, histogram
from kto_data.report.template import render
from kto_data.report.text import cut

_MOST_SOURCES, _MOST_REMARKS = 30, 30
_MOST_OF_TEXT = 100  # characters of a completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Rows that were dropped for one reason."""

    reason: str
    desirable: int
    undesirable: int
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSection:
    """What one split is like."""

    name: str
    headline: str
    report: SplitReport
    stages: tuple[tuple[str, LabelCounts, str], ...]  # name, rows, balance
    dropped: tuple[Dropped, ...]
    sources: tuple[SourceCounts, ...]
    completions: tuple[tuple[str, int, int], ...]  # beginning, desirable, undesirable
    shortcuts: str  # what alone tells the labels apart; empty where nothing can
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that the template needs."""

    version: str
    fingerprint: str
    weights: Weights | None  # of the split that is trained on
    verdict: str
    is_balanced: bool
    intervals: tuple[tuple[str, str, str], ...]  # label, weights for [1, 4/3], weights for [1, 3/2]
    remarks: tuple[Remark, ...]
    num_remarks: int
    num_kept: int
    num_dropped: int
    splits: tuple[SplitSection, ...]


def balance_html(report: BalanceReport) -> str:
    """The report as a whole file."""
    return render("balance.html", page=_page(report), show=number)


def _page(report: BalanceReport) -> Page:
    trained = report.splits.get(TRAIN)
    weights = trained.weights if trained else None
    return Page(
        version=__version__,
        fingerprint=report.fingerprint,
        weights=weights,
        verdict=VERDICTS[weights.verdict] if weights else "",
        is_balanced=weights is not None and weights.verdict == Verdict.BALANCED.value,
        intervals=tuple(_intervals(weights)) if weights else (),
        remarks=report.remarks[:_MOST_REMARKS],
        num_remarks=len(report.remarks),
        num_kept=sum(split.counts.kept for split in report.splits.values()),
        num_dropped=sum(sum(split.counts.dropped.values()) for split in report.splits.values()),
        splits=tuple(_section(name, split) for name, split in report.splits.items()),
    )


def _intervals(weights: Weights) -> Iterator[tuple[str, str, str]]:
    if weights.trl is not None and weights.paper is not None:
        trl, paper = weights.trl, weights.paper
        yield "desirable", interval(trl.desirable_weight), interval(paper.desirable_weight)
        yield "undesirable", interval(trl.undesirable_weight), interval(paper.undesirable_weight)


def _section(name: str, split: SplitReport) -> SplitSection:
    return SplitSection(
        name=name,
        headline=" · ".join(headline(split)),
        report=split,
        stages=tuple((stage, counts, number(counts.balance)) for stage, counts in told_stages(split.stages)),
        dropped=tuple(
            Dropped(
                reason=reason_words(reason),
                desirable=labels.get("true", 0),
                undesirable=labels.get("false", 0),
                unreadable=labels.get("unreadable", 0),
            )
            for reason, labels in split.counts.dropped_by_label.items()
        ),
        sources=split.sources[:_MOST_SOURCES] if split.num_sources > 1 else (),
        completions=tuple(
            (cut(top.text, _MOST_OF_TEXT), top.desirable, top.undesirable) for top in split.top_completions
        ),
        shortcuts=shortcut_words(split) if split.shortcuts else "",
        histograms=tuple(_histograms(split)),
    )


def _histograms(split: SplitReport) -> Iterator[Histogram]:
    if split.counts.kept:
        yield histogram("Length of rows", "tokens", split.row_tokens)
        yield histogram("Length of completions", "tokens", split.completion_tokens)
    if len(split.images.bins) > 1:
        yield histogram("Images of a row", "images", split.images)
    if split.pixels is not None:
        yield histogram("Area of the images of a row", "pixels", split.pixels)

"""The label balance report: what is in a cache, by label, and which loss weights fit it.

`balance_report` works the numbers out; `render_balance` shows them in a terminal. The JSON file is the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from kto_data.balance import AdmissibleWeights, Verdict, admissible_weights
from kto_data.manifest import SplitCounts
from kto_data.tally import Tally

SCHEMA_VERSION = 1
_SHORTCUT_AUC = 0.7  # above which a property alone predicts the label well enough to be pointed out
_NUM_TOP_COMPLETIONS = 5
_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Weights(_Model):
    """The balance value b, and the weights that bring it into a published band. None where a label is missing."""

    balance: float | None
    verdict: str
    desirable_weight: float
    undesirable_weight: float
    desirable_interval: tuple[float, float] | None  # band [1, 4/3]
    undesirable_interval: tuple[float, float] | None
    desirable_interval_paper_v4: tuple[float, float] | None  # band [1, 3/2]
    undesirable_interval_paper_v4: tuple[float, float] | None


class Shortcut(_Model):
    """How well one property alone tells the labels apart: AUC, 0.5 is not at all, 1 is fully."""

    property: str
    auc: float


class RepeatedCompletion(_Model):
    """A completion that several rows share."""

    text: str
    rows: int


class SplitReport(_Model):
    """Everything about one split."""

    counts: SplitCounts
    weights: Weights
    tokens_by_label: dict[str, dict[str, int]]  # label -> prompt, completion, image -> tokens
    completion_tokens_by_label: dict[str, dict[str, float]]  # label -> quantile -> tokens
    by_source: dict[str, dict[str, int]]  # source -> label -> rows
    shortcuts: tuple[Shortcut, ...]
    num_prompts: int
    num_prompts_with_both_labels: int
    num_contradictions: int  # rows whose prompt, images and completion also come with the other label
    num_duplicates: int  # rows that repeat an earlier one, label included
    top_completions: tuple[RepeatedCompletion, ...]


class BalanceReport(_Model):
    """The report of a cache, one part a split."""

    schema_version: int = SCHEMA_VERSION
    splits: dict[str, SplitReport]


def balance_report(tallies: Mapping[str, Tally]) -> BalanceReport:
    """Work the report out of what was counted."""
    return BalanceReport(splits={name: _split_report(tally) for name, tally in tallies.items()})


def _split_report(tally: Tally) -> SplitReport:
    counts, rows = tally.counts(), tally.rows
    by_label = {"true": rows[rows["label"]], "false": rows[~rows["label"]]}
    by_source: dict[str, dict[str, int]] = {}
    for (source, label), number in sorted(tally.by_source.items()):
        by_source.setdefault(source, {})[label] = number
    pairs = np.unique(rows[["prompt_key", "completion_key", "label"]], return_counts=False)
    contents = np.unique(pairs[["prompt_key", "completion_key"]], return_counts=True)
    contradicting = contents[0][contents[1] == 2]
    prompts = np.unique(np.unique(rows[["prompt_key", "label"]])["prompt_key"], return_counts=True)[1]
    return SplitReport(
        counts=counts,
        weights=_weights(counts.kept_by_label["true"], counts.kept_by_label["false"]),
        tokens_by_label={label: _tokens(part) for label, part in by_label.items()},
        completion_tokens_by_label={label: _quantiles(part["num_completion"]) for label, part in by_label.items()},
        by_source=by_source,
        shortcuts=_shortcuts(by_label["true"], by_label["false"], by_source),
        num_prompts=len(prompts),
        num_prompts_with_both_labels=int(np.sum(prompts == 2)),
        num_contradictions=int(np.sum(np.isin(rows[["prompt_key", "completion_key"]], contradicting))),
        num_duplicates=len(rows) - len(pairs),
        top_completions=_top_completions(tally),
    )


def _weights(num_desirable: int, num_undesirable: int) -> Weights:
    answer: AdmissibleWeights = admissible_weights(num_desirable, num_undesirable)
    trl, paper = answer.trl, answer.paper
    return Weights(
        balance=answer.balance,
        verdict=answer.verdict.value,
        desirable_weight=answer.desirable_weight,
        undesirable_weight=answer.undesirable_weight,
        desirable_interval=(trl.desirable.low, trl.desirable.high) if trl else None,
        undesirable_interval=(trl.undesirable.low, trl.undesirable.high) if trl else None,
        desirable_interval_paper_v4=(paper.desirable.low, paper.desirable.high) if paper else None,
        undesirable_interval_paper_v4=(paper.undesirable.low, paper.undesirable.high) if paper else None,
    )


def _tokens(rows: np.ndarray) -> dict[str, int]:
    return {
        "prompt": int(rows["num_prompt"].sum()),
        "completion": int(rows["num_completion"].sum()),
        "image": int(rows["num_image_tokens"].sum()),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {name: float(np.quantile(values, q, method="nearest")) for name, q in _QUANTILES.items()}


def _shortcuts(
    desirable: np.ndarray, undesirable: np.ndarray, by_source: Mapping[str, Mapping[str, int]]
) -> tuple[Shortcut, ...]:
    if not len(desirable) or not len(undesirable):
        return ()
    found = [
        Shortcut(property=name, auc=_auc(desirable[column], undesirable[column]))
        for name, column in (
            ("completion length", "num_completion"),
            ("number of images", "num_images"),
            ("pixel area", "pixels"),
        )
    ]
    if len(by_source) > 1:
        # A source is as good as the share of desirable rows in it: the best score that knows nothing else.
        shares = {s: labels.get("true", 0) / sum(labels.values()) for s, labels in by_source.items()}
        scores = [
            np.repeat([shares[s] for s in by_source], [by_source[s].get(label, 0) for s in by_source])
            for label in ("true", "false")
        ]
        found.append(Shortcut(property="source", auc=_auc(*scores)))
    return tuple(found)


def _auc(left: np.ndarray, right: np.ndarray) -> float:
    """How often a value of one side exceeds one of the other, ties half: the Mann-Whitney AUC, folded to >= 0.5."""
    values = np.concatenate([left, right])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    auc = (ranks[: len(left)].sum() - len(left) * (len(left) + 1) / 2) / (len(left) * len(right))
    return round(float(max(auc, 1 - auc)), 4)


def _top_completions(tally: Tally) -> tuple[RepeatedCompletion, ...]:
    keys, counts = np.unique(tally.rows["completion_key"], return_counts=True)
    order = np.lexsort((keys, -counts))[:_NUM_TOP_COMPLETIONS]
    return tuple(
        RepeatedCompletion(text=tally.completions.get(int(keys[i]), ""), rows=int(counts[i]))
        for i in order
        if counts[i] > 1
    )


def render_balance(report: BalanceReport) -> list[str]:
    """The report as lines for a terminal, at most 80 columns wide."""
    lines: list[str] = []
    for name, split in report.splits.items():
        lines += [f"Label balance · {name}", ""]
        lines += _count_lines(split)
        lines += ["", *_weight_lines(split.weights, advise=name == "train")]
        lines += [f"  ! {note}" for note in _notes(split)]
        lines.append("")
    return lines[:-1]


def _count_lines(split: SplitReport) -> list[str]:
    counts, kept = split.counts, max(1, split.counts.kept)
    lines = []
    for label, title in (("true", "desirable"), ("false", "undesirable")):
        number = counts.kept_by_label[label]
        bar = "█" * round(30 * number / kept)
        median = split.completion_tokens_by_label[label].get("p50")
        length = f"median completion {median:,.0f} tokens" if median is not None else ""
        lines.append(f"  {title:<11} {number:>9,} {bar:<30} {length}".rstrip())
    lines.append(f"  read {counts.read:,} = kept {counts.kept:,} + dropped {sum(counts.dropped.values()):,}")
    for reason, labels in counts.dropped_by_label.items():
        split_up = ", ".join(f"{number:,} {label}" for label, number in labels.items())
        lines.append(f"    {reason}: {sum(labels.values()):,} ({split_up})")
    if counts.truncated_by_label:
        split_up = ", ".join(f"{number:,} {label}" for label, number in counts.truncated_by_label.items())
        lines.append(f"  completions that lost their tail: {split_up}")
    return lines


def _weight_lines(weights: Weights, *, advise: bool) -> list[str]:
    if weights.balance is None or weights.desirable_interval is None or weights.undesirable_interval is None:
        return ["  balance undefined: one label has no rows, and no weight can balance that"]
    lines = [f"  balance b = {weights.balance:.3f} at weights 1 and 1 ({weights.verdict}; TRL's band is [1, 1.333])"]
    if advise and weights.verdict != Verdict.BALANCED.value:
        low, high = weights.desirable_interval
        lines.append("  to balance it, put one of these into the training configuration:")
        lines.append(f"    weights: {{desirable: {_inside(low, high)}}}  # within [{low:.3f}, {high:.3f}]")
        low, high = weights.undesirable_interval
        lines.append(f"    weights: {{undesirable: {_inside(low, high)}}}  # within [{low:.3f}, {high:.3f}]")
    return lines


def _inside(low: float, high: float) -> float:
    """A short number well inside the interval."""
    return float(f"{(low + high) / 2:.3g}")


def _notes(split: SplitReport) -> list[str]:
    notes = [
        f"{item.property} alone tells the labels apart (AUC {item.auc:.2f}): the model may learn that instead"
        for item in split.shortcuts
        if item.auc > _SHORTCUT_AUC
    ]
    if split.num_contradictions:
        notes.append(f"{split.num_contradictions:,} rows say the same and carry both labels: they cancel each other")
    if split.num_duplicates:
        notes.append(f"{split.num_duplicates:,} rows repeat an earlier one exactly")
    if split.top_completions:
        top = split.top_completions[0]
        notes.append(f"the most frequent completion comes {top.rows:,} times: {top.text!r}")
    return notes

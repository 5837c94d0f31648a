"""From what was counted while a cache was made to its label balance report.

    Tally a split ─▶ BalanceReport

All of it comes from the columns of the tallies. No row is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kto_data.balance import AdmissibleWeights, BandWeights, admissible_weights, automatic_weights
from kto_data.blockwise import copy_of, joined
from kto_data.distribution import Distribution, Separation, distribution, group_separation
from kto_data.encode import TOO_LONG_CODES
from kto_data.pairing import microbatches
from kto_data.paths import TRAIN
from kto_data.policy import CONTRADICTION_CODE
from kto_data.repeats import Keys
from kto_data.report.balance.model import (
    BalanceReport,
    Band,
    LabelCounts,
    Leakage,
    RepeatedCompletion,
    Shortcut,
    SourceCounts,
    SplitReport,
    Stages,
    Tokens,
    Weights,
    label_counts,
)
from kto_data.report.balance.remarks import balance_remarks
from kto_data.tally import KEPT, Tally, label_name

_NUM_SOURCES = 100  # shown by name, the largest ones
_NUM_TOP_COMPLETIONS = 5
_BLOCK = 1 << 16  # rows that are looked at together: what is made of them stays small
_DIGITS = 3  # of areas: enough to see, and few enough that millions of sizes are a few thousand numbers
_LABELS = ("true", "false", label_name(None))

_Numbers = NDArray[np.int64]
_Keys = NDArray[np.uint64]


def balance_report(tallies: Mapping[str, Tally], fingerprint: str, batch_size: int) -> BalanceReport:
    """The report of a cache with these splits; `batch_size` is that of the training to come."""
    splits = {name: _split_report(name, tallies, batch_size) for name in tallies}
    return BalanceReport(fingerprint=fingerprint, splits=splits, remarks=tuple(balance_remarks(splits)))


def _split_report(name: str, tallies: Mapping[str, Tally], batch_size: int) -> SplitReport:
    tally = tallies[name]
    counts, rows, label = tally.counts(), tally.rows, tally.rows["label"]
    kept = label_counts(counts.kept_by_label)
    sources = sorted(
        (SourceCounts(source=source, stages=_source_stages(fates)) for source, fates in tally.sources.items()),
        key=lambda entry: (-entry.stages.read.total, entry.source),
    )
    by_source = [(entry.stages.kept.desirable, entry.stages.kept.undesirable) for entry in sources]
    length, images = (_by_label(rows, itemgetter(name)) for name in ("num_completion", "num_images"))
    pixels = _by_label(rows, _rounded_pixels, with_images=True) if len(tally.image_keys) else None
    labels = label.tobytes()
    num_prompts, num_under_both = _prompts(rows, labels)
    num_contradictions, num_duplicates = _wholes(rows, labels)
    completions = _Completions.of(tally, labels)
    return SplitReport(
        counts=counts,
        stages=_stages(counts.kept_by_label, counts.dropped_by_label),
        weights=_weights(kept),
        sources=tuple(sources[:_NUM_SOURCES]),
        num_sources=len(sources),
        other_sources=_sum_of(sources[_NUM_SOURCES:]),
        tokens={"desirable": _tokens(rows, label), "undesirable": _tokens(rows, ~label)},
        completion_tokens=length,
        row_tokens=_by_label(rows, lambda block: block["num_prompt"] + block["num_completion"]),
        images=images,
        pixels=pixels,
        shortcuts=_shortcuts(
            {
                "completion length": length.separation,
                "number of images": images.separation,
                "pixel area": pixels.separation if pixels else None,
                "source": group_separation(by_source) if len(by_source) > 1 else None,
            }
        ),
        num_prompts=num_prompts,
        num_prompts_with_both_labels=num_under_both,
        num_contradictions=num_contradictions,
        num_duplicates=num_duplicates,
        num_repeated_completions=completions.num_repeated,
        top_completions=completions.top,
        num_images=len(tally.image_keys),
        num_image_files=Keys(tally.image_keys.data, b"").num_distinct,
        microbatches=microbatches(labels, completions.commonest, batch_size) if len(rows) > 1 else None,
        leakage=_leakage(tally, tallies[TRAIN]) if TRAIN in tallies and name != TRAIN else None,
    )


# -- labels and weights


def _stages(kept: Mapping[str, int], dropped: Mapping[str, Mapping[str, int]]) -> Stages:
    """Rows at each stage. `dropped`: reason -> label -> rows."""
    invalid, too_long, contradicting = (Counter[str](), Counter[str](), Counter[str]())
    for reason, labels in dropped.items():
        is_policy = reason == CONTRADICTION_CODE
        (contradicting if is_policy else too_long if reason in TOO_LONG_CODES else invalid).update(labels)
    not_too_long = contradicting + Counter(kept)
    valid = not_too_long + too_long
    return Stages(
        read=label_counts(valid + invalid),
        valid=label_counts(valid),
        not_too_long=label_counts(not_too_long),
        kept=label_counts(kept),
    )


def _source_stages(fates: Mapping[tuple[str, str], int]) -> Stages:
    dropped: dict[str, dict[str, int]] = {}
    for (fate, label), rows in fates.items():
        dropped.setdefault(fate, {})[label] = rows
    kept = dropped.pop(KEPT, {})
    return _stages(kept, dropped)


def _sum_of(sources: list[SourceCounts]) -> Stages | None:
    if not sources:
        return None
    return Stages(
        read=_total(entry.stages.read for entry in sources),
        valid=_total(entry.stages.valid for entry in sources),
        not_too_long=_total(entry.stages.not_too_long for entry in sources),
        kept=_total(entry.stages.kept for entry in sources),
    )


def _total(counts: Iterable[LabelCounts]) -> LabelCounts:
    columns = zip(*((entry.desirable, entry.undesirable, entry.unreadable) for entry in counts), strict=True)
    desirable, undesirable, unreadable = map(sum, columns)
    return LabelCounts(desirable=desirable, undesirable=undesirable, unreadable=unreadable)


def _weights(kept: LabelCounts) -> Weights:
    plain = admissible_weights(kept.desirable, kept.undesirable)
    automatic = automatic_weights(kept.desirable, kept.undesirable)
    return Weights(
        balance=plain.balance,
        verdict=plain.verdict.value,
        trl=_band(plain.trl),
        paper=_band(plain.paper),
        desirable_weight=automatic.desirable_weight,
        undesirable_weight=automatic.undesirable_weight,
        weighted_balance=automatic.balance,
        paste=tuple(_paste(plain.trl, automatic)),
    )


def _band(band: BandWeights | None) -> Band | None:
    if band is None:
        return None
    return Band(
        upper=band.upper,
        desirable_weight=(band.desirable.low, band.desirable.high),
        undesirable_weight=(band.undesirable.low, band.undesirable.high),
    )


def _paste(band: BandWeights | None, automatic: AdmissibleWeights) -> Iterator[str]:
    if band is None:
        return
    chosen = f"{automatic.desirable_weight:g} and {automatic.undesirable_weight:g}"
    yield f"weights: auto  # the default: {chosen}, which gives b = {automatic.balance:.3g}"
    if automatic.desirable_weight == automatic.undesirable_weight == 1:
        return
    for name, interval in (("desirable", band.desirable), ("undesirable", band.undesirable)):
        yield f"# or weights: {{{name}: {_inside(interval.low, interval.high)}}}"


def _inside(low: float, high: float) -> float:
    """A short number well inside the interval, with a point, so that every reader of YAML takes it for a number."""
    return float(f"{(low + high) / 2:.3g}")


# -- what rows are like


def _tokens(rows: np.ndarray, wanted: NDArray[np.bool_]) -> Tokens:
    return Tokens(
        prompt=int(rows["num_prompt"].sum(where=wanted)),
        completion=int(rows["num_completion"].sum(where=wanted)),
        image=int(rows["num_image_tokens"].sum(where=wanted)),
    )


def _by_label(rows: np.ndarray, values: Callable[[np.ndarray], _Numbers], *, with_images: bool = False) -> Distribution:
    """The distribution of what `values` gives of rows, or of those `with_images`; it is given some at a time."""
    counts: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        if with_images:
            block = block[block["num_images"] > 0]
        found = values(block)
        for label, counted in counts.items():
            distinct, numbers = np.unique(found[block["label"] == label], return_counts=True)
            counted.update(dict(zip(distinct.tolist(), numbers.tolist(), strict=True)))
    return distribution(counts[True], counts[False])


def _rounded_pixels(rows: np.ndarray) -> _Numbers:
    pixels: _Numbers = rows["pixels"]
    step = 10 ** np.maximum(np.floor(np.log10(np.maximum(pixels, 1))).astype(np.int64) + 1 - _DIGITS, 0)
    rounded: _Numbers = pixels // step * step
    return rounded


def _shortcuts(by_property: Mapping[str, Separation | None]) -> tuple[Shortcut, ...]:
    told = [Shortcut(property=name, separation=value) for name, value in by_property.items() if value and value.sigma]
    return tuple(sorted(told, key=lambda entry: -entry.separation.strength))


# -- equal rows


def _keys(numbers: _Keys, labels: bytes) -> Keys:
    return Keys(copy_of(numbers).data, labels)


def _prompts(rows: np.ndarray, labels: bytes) -> tuple[int, int]:
    """How many different prompts there are, and how many of them have both labels."""
    keys = _keys(rows["prompt_key"], labels)
    return keys.num_distinct, keys.num_under_both


def _wholes(rows: np.ndarray, labels: bytes) -> tuple[int, int]:
    """How many rows contradict another one, and how many say what one before them said."""
    keys = Keys(joined(rows["prompt_key"], rows["completion_key"]).data, labels)
    return keys.num_opposed_in(keys), len(keys) - keys.num_distinct - keys.num_under_both


class _Completions(NamedTuple):
    """Which completions repeat."""

    num_repeated: int
    top: tuple[RepeatedCompletion, ...]
    commonest: list[int]

    @classmethod
    def of(cls, tally: Tally, labels: bytes) -> _Completions:
        keys = _keys(tally.rows["completion_key"], labels)
        top = (
            RepeatedCompletion(
                text=tally.completions.get(entry.value, ""),
                desirable=entry.num_desirable,
                undesirable=entry.count - entry.num_desirable,
            )
            for entry in keys.most_common(_NUM_TOP_COMPLETIONS)
        )
        return cls(keys.num_repeated, tuple(top), keys.commonest)


def _leakage(tally: Tally, train: Tally) -> Leakage:
    prompts, prompts_in_train = (_keys(each.rows["prompt_key"], b"") for each in (tally, train))
    images, images_in_train = (Keys(each.image_keys.data, b"") for each in (tally, train))
    places = np.asarray(images.rows_in(images_in_train), np.int64)
    owners = np.searchsorted(np.cumsum(tally.rows["num_images"]), places, side="right")
    return Leakage(
        num_same_prompt=len(prompts.rows_in(prompts_in_train)),
        num_same_image=len(np.unique(owners)),
    )

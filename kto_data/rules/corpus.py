"""KTO4xx and KTO6xx: what only all records together can show."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.balance import Verdict, admissible_weights
from kto_data.finding import Severity
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import DatasetFacts, Place


@rule("KTO401", "conflicting-labels", Severity.ERROR, Stage.DATASET)
def conflicting_labels(facts: DatasetFacts) -> Iterator[Defect]:
    """The same answer to the same prompt must not have both labels.

    The two pull in opposite directions: at equal weights they cancel, at unequal ones the heavier label wins whatever
    the majority thought. One finding for each such answer, at the first record of the label in the minority.

    Bad:  prompt P with completion C, `"label": true`, and the same again with `"label": false`
    Good: one label for each prompt and completion
    """
    for group in facts.repeated():
        desirable = [place for place in group if place.label]
        undesirable = [place for place in group if not place.label]
        if not desirable or not undesirable:
            continue
        # On a tie it is the label that came second: the reader has seen the first one before.
        minority, majority = sorted((desirable, undesirable), key=lambda side: (len(side), side[0] is group[0]))
        this, other = minority[0], majority[0]
        count = f"{len(desirable)} true, {len(undesirable)} false"
        yield Defect(
            f"labelled {_word(this)}, but {_at(other, this)} has the same prompt and completion labelled {_word(other)}"
            + (f" ({count})" if len(group) > 2 else ""),
            path=this.path,
            line=this.line,
        )


@rule("KTO403", "single-class", Severity.ERROR, Stage.DATASET)
def single_class(facts: DatasetFacts) -> Iterator[Defect]:
    """A dataset must have desirable and undesirable samples.

    With one label alone there is nothing to weigh against: training drives every reward up, or every reward down.

    Bad:  1,200 records, all `"label": true`
    Good: 700 records `true`, 500 records `false`
    """
    if facts.num_samples and not (facts.num_desirable and facts.num_undesirable):
        label, missing = ("true", "false") if facts.num_desirable else ("false", "true")
        whose = "the only record is" if facts.num_samples == 1 else f"all {facts.num_samples:,} records are"
        yield Defect(f"{whose} labelled {label}, none {missing}", path=facts.first_path)


@rule("KTO404", "label-imbalance", Severity.WARNING, Stage.DATASET)
def label_imbalance(facts: DatasetFacts) -> Iterator[Defect]:
    """The weighted ratio of desirable to undesirable samples should lie between 1 and 4/3.

    Both labels then pull about equally. Training with other numbers is done by a weight; the message has the
    admissible ones, for the band 1 to 4/3 (TRL) and for 1 to 3/2 (the paper, arXiv 2402.01306, Eq. 9). Change one
    weight and leave the other at 1.

    Bad:  900 `true`, 100 `false`, both weights 1
    Good: 900 `true`, 100 `false`, `undesirable_weight: 9`
    """
    weights = admissible_weights(facts.num_desirable, facts.num_undesirable)
    if weights.verdict in (Verdict.BALANCED, Verdict.UNDEFINED):
        return
    assert weights.trl is not None
    assert weights.paper is not None
    yield Defect(
        f"{facts.num_desirable:,} desirable, {facts.num_undesirable:,} undesirable: balance {weights.balance:.3g}, "
        f"outside [1, 4/3]; set desirable_weight in {weights.trl.desirable} (up to {weights.paper.desirable.high:.4g} "
        f"by the paper) or undesirable_weight in {weights.trl.undesirable} (from {weights.paper.undesirable.low:.4g})",
        path=facts.first_path,
    )


@rule("KTO601", "exact-duplicate", Severity.WARNING, Stage.DATASET, fix=Fix.SAFE)
def exact_duplicate(facts: DatasetFacts) -> Iterator[Defect]:
    """A record should be there once.

    Same prompt, images, completion and label: the sample counts double, and where it falls on both sides of a split,
    the evaluation is of what was learnt by heart. The first one is kept.

    Bad:  the same record on lines 3 and 9
    Good: the record on line 3
    """
    for group in facts.repeated():
        first: dict[bool, Place] = {}
        for place in group:
            original = first.setdefault(place.label, place)
            if place is not original:
                yield Defect(f"the same as {_at(original, place)}", path=place.path, line=place.line)


def _word(place: Place) -> str:
    return "true" if place.label else "false"


def _at(place: Place, seen_from: Place) -> str:
    return f"line {place.line}" if place.path == seen_from.path else f"{place.path}:{place.line}"

"""KTO4xx: the labels of all records together."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.balance import Verdict, admissible_weights
from kto_data.finding import Severity
from kto_data.rules.base import Defect, Fix, Requirement, Stage, rule
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import Place
from kto_data.rules.traits import LabelRun, label_order, num_self_pairs, shortcuts

SHORTCUT_AUC = 0.75
"""From which on a property alone predicts the label (KTO407)."""


@rule("KTO401", "conflicting-labels", Severity.ERROR, Stage.DATASET)
def conflicting_labels(facts: DatasetFacts) -> Iterator[Defect]:
    """The same answer to the same prompt must not have both labels.

    The two pull in opposite directions: at equal weights they cancel, at unequal ones the heavier label wins whatever
    the majority thought. One finding for each such answer, at the first record of the label in the minority. All
    splits are looked at together: an evaluation that contradicts the training is no less wrong.

    Bad:  prompt P with completion C, `"label": true`, and the same again with `"label": false`
    Good: one label for each prompt and completion
    """
    for found in facts.whole_keys.opposed():
        # On a tie it is the label that came second: the reader has seen the first one before.
        this, other = facts.place(found.rarer), facts.place(found.other)
        count = f"{found.num_desirable:,} true, {found.num_undesirable:,} false"
        yield Defect(
            f"labelled {_word(this)}, but {other.seen_from(this)} has the same prompt and completion labelled "
            + _word(other)
            + (f" ({count})" if found.num_desirable + found.num_undesirable > 2 else ""),
            path=this.path,
            line=this.line,
            data=(
                ("other_path", other.path),
                ("other_line", other.line),
                ("desirable", found.num_desirable),
                ("undesirable", found.num_undesirable),
            ),
        )


@rule("KTO403", "single-class", Severity.ERROR, Stage.DATASET)
def single_class(facts: DatasetFacts) -> Iterator[Defect]:
    """A dataset must have desirable and undesirable samples.

    With one label alone there is nothing to weigh against: training drives every reward up, or every reward down.
    Where there are several splits, the one that is trained on is judged.

    Bad:  1,200 records, all `"label": true`
    Good: 700 records `true`, 500 records `false`
    """
    split = facts.trained
    if split and not (split.num_desirable and split.num_undesirable):
        label, missing = ("true", "false") if split.num_desirable else ("false", "true")
        whose = "the only record is" if len(split) == 1 else f"all {len(split):,} records are"
        yield Defect(
            f"{whose} labelled {label}, none {missing}", path=split.first_path, data=(("records", len(split)),)
        )


@rule("KTO404", "label-imbalance", Severity.WARNING, Stage.DATASET)
def label_imbalance(facts: DatasetFacts) -> Iterator[Defect]:
    """The weighted ratio of desirable to undesirable samples should lie between 1 and 4/3.

    Both labels then pull about equally. Training with other numbers is done by a weight; the message has the
    admissible ones, for the band 1 to 4/3 (TRL) and for 1 to 3/2 (the paper, arXiv 2402.01306, Eq. 9). Change one
    weight and leave the other at 1. Where there are several splits, the one that is trained on is judged: weights do
    nothing to an evaluation.

    Bad:  900 `true`, 100 `false`, both weights 1
    Good: 900 `true`, 100 `false`, `undesirable_weight: 9`
    """
    weights = admissible_weights(facts.num_desirable, facts.num_undesirable)
    if facts.trained is None or weights.balance is None or weights.verdict is Verdict.BALANCED:
        return
    assert weights.trl is not None
    assert weights.paper is not None
    yield Defect(
        f"{facts.num_desirable:,} desirable, {facts.num_undesirable:,} undesirable: balance {weights.balance:.3g}, "
        f"outside [1, 4/3]; set desirable_weight in {weights.trl.desirable} (up to {weights.paper.desirable.high:.4g} "
        f"by the paper) or undesirable_weight in {weights.trl.undesirable} (from {weights.paper.undesirable.low:.4g})",
        path=facts.trained.first_path,
        data=(
            ("desirable", facts.num_desirable),
            ("undesirable", facts.num_undesirable),
            ("balance", round(weights.balance, 4)),
        ),
    )


@rule("KTO405", "label-runs", Severity.WARNING, Stage.DATASET, fix=Fix.UNSAFE)
def label_runs(facts: DatasetFacts) -> Iterator[Defect]:
    """Records should not be sorted by label.

    A trainer that reads them in order (TRL's own does, of data with images) takes whole steps of one label, and first
    learns one half, then the other. A run of one label is pointed out where it is at least 32 long, a step's worth, and
    so long that data with these labels, shuffled, has one like it with a probability under one in a million. Judged is
    the split that is trained on, its files in the order they were named. Shuffle it, if your trainer does not.

    Bad:  5,000 records `true`, behind them 4,000 `false`
    Good: the same in random order
    """
    split = facts.trained
    if not split:
        return
    order = label_order(split)
    run = order.worst
    if run is None:
        return
    place = split.place(run.start)
    words = _extent(run, len(split))
    if order.num_runs == 2:
        words += f", the other {len(split) - run.num_samples:,} all {'false' if place.label else 'true'}"
    yield Defect(
        f"{words}; shuffled, hardly a run would reach {order.bounds[place.label]:,}. "
        f"In runs as long as that stand {order.num_in_long_runs / len(split):.0%} of the records",
        path=place.path,
        line=place.line,
        data=(
            ("label", place.label),
            ("first", run.start + 1),
            ("records", run.num_samples),
            ("records_in_long_runs", order.num_in_long_runs),
        ),
    )


@rule("KTO406", "kl-degenerate", Severity.WARNING, Stage.DATASET, requires=Requirement.BATCH_SIZE)
def kl_degenerate(facts: DatasetFacts) -> Iterator[Defect]:
    """Every record should find another completion in its batch.

    The KL term of a record is measured on the completion of another record of its batch. Where that completion is the
    same, the term is the record's own reward, and its gradient vanishes. A completion that more than half of the
    records have meets itself however they are dealt to batches; so does every completion in a batch of one. The number
    is the least that is possible; a trainer that pairs neighbours blindly has more. Judged is the split that is trained
    on, without what does not depend on a KL term (`apo_zero_unpaired`).

    Bad:  "Yes." in 900 of 1,000 records, `--batch-size 4`
    Good: answers in sentences, or a loss without a KL term
    """
    split = facts.trained
    if not split or facts.batch_size is None:
        return
    number = num_self_pairs(split, facts.batch_size)
    if not number:
        return
    data = (("batch_size", facts.batch_size), ("self_pairs", number))
    if facts.batch_size == 1:
        yield Defect("in batches of one, every record meets its own completion", path=split.first_path, data=data)
        return
    if len(split) < 2:
        return
    top = split.completion_keys.most_common(1)[0]
    place = split.place(top.first)
    share = f"{top.count:,} of {len(split):,} records"
    yield Defect(
        f"{share} have the completion of this one: in batches of {facts.batch_size}, {number:,} or more meet their own",
        path=place.path,
        line=place.line,
        data=data,
    )


@rule("KTO407", "label-shortcut", Severity.INFO, Stage.DATASET, default=False)
def label_shortcut(facts: DatasetFacts) -> Iterator[Defect]:
    """No single property should predict the label.

    A model learns what is easiest: where desirable answers are simply the longer ones, it learns to talk. Looked at are
    the completion's length in characters, the number of images, the area of the images as far as they were looked at,
    and the source. Measured by the AUC: the probability that of a desirable and an undesirable record drawn at random
    the property ranks the desirable one higher, ties counting half (Hanley and McNeil, Radiology 143, 1982); 0.5 is no
    connection. Pointed out is what is over 0.75 and beyond chance by three standard deviations. Of the source, the
    share of desirable records in one half of the data ranks the records of the other half.

    Bad:  desirable answers of 400 words, undesirable ones of 20
    Good: both labels at all lengths, and from all sources
    """
    split = facts.trained
    for shortcut in shortcuts(split) if split else ():
        if shortcut.separation.exceeds(SHORTCUT_AUC):
            assert split is not None
            yield Defect(
                f"{shortcut.property} alone predicts the label: AUC {shortcut.separation.strength:.2f}",
                path=split.first_path,
                data=(("property", shortcut.property), ("auc", round(shortcut.separation.auc, 4))),
            )


def _extent(run: LabelRun, total: int) -> str:
    """Such as "the first 5,000 records are all true"."""
    if run.start == 0:
        which = f"the first {run.num_samples:,} records"
    elif run.start + run.num_samples == total:
        which = f"the last {run.num_samples:,} records"
    else:
        which = f"{run.num_samples:,} records, from number {run.start + 1:,} on,"
    return f"{which} are all {'true' if run.label else 'false'}"


def _word(place: Place) -> str:
    return "true" if place.label else "false"

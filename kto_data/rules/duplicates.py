"""KTO60x: what is there more than once."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import Place


@rule("KTO601", "exact-duplicate", Severity.WARNING, Stage.DATASET, fix=Fix.SAFE)
def exact_duplicate(facts: DatasetFacts) -> Iterator[Defect]:
    """A record should be there once.

    Same prompt, images, completion and label: the sample counts double. The first one is kept. Looked at is each split
    by itself: what is in two of them is leakage (KTO611).

    Bad:  the same record on lines 3 and 9
    Good: the record on line 3
    """
    for group in facts.repeated():
        first: dict[tuple[str, bool], Place] = {}
        for place in group:
            original = first.setdefault((place.split, place.label), place)
            if place is not original:
                yield Defect(
                    f"the same as {original.seen_from(place)}",
                    path=place.path,
                    line=place.line,
                    data=(("first_path", original.path), ("first_line", original.line)),
                )

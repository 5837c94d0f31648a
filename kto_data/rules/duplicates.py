"""KTO60x: what is there more than once."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.image import ImageCheck
from kto_data.near import near_duplicates
from kto_data.rules.base import Defect, Fix, Requirement, Stage, rule
from kto_data.rules.chunk_facts import ImageFile
from kto_data.rules.facts import DatasetFacts
from kto_data.rules.split import SplitFacts
from kto_data.rules.words import shown_path


@rule("KTO601", "exact-duplicate", Severity.WARNING, Stage.DATASET, fix=Fix.SAFE)
def exact_duplicate(facts: DatasetFacts) -> Iterator[Defect]:
    """A record should be there once.

    Same prompt, images, completion and label: the sample counts double. The first one is kept. Looked at is each split
    by itself: what is in two of them is leakage (KTO611).

    Bad:  the same record on lines 3 and 9
    Good: the record on line 3
    """
    for split in facts.splits.values():
        for row, first in split.whole_keys.seen_before():
            place, original = split.place(row), split.place(first)
            yield Defect(
                f"the same as {original.seen_from(place)}",
                path=place.path,
                line=place.line,
                data=(("first_path", original.path), ("first_line", original.line)),
            )


@rule("KTO602", "near-duplicate", Severity.INFO, Stage.DATASET, default=False, requires=Requirement.NEAR)
def near_duplicate(facts: DatasetFacts) -> Iterator[Defect]:
    """A record should not be nearly what another one is.

    Same images, and prompt and completion each alike to 85 percent or more of their runs of eight characters: what a
    template, a retry or a stray space makes of one record. It counts double as a duplicate does. Alike is estimated
    (MinHash, within some 5 percent), so nine in ten are found of those that are alike to 92 percent, and fewer under
    it. Takes 128 bytes of memory a record.

    Bad:  "Name three rivers of France." and "Name three rivers in France.", with the same long answer
    Good: one of the two
    """
    for split in facts.splits.values():
        for row, earlier, similarity in near_duplicates(split.signatures, split.whole_keys):
            place, other = split.place(row), split.place(earlier)
            yield Defect(
                f"nearly the same as {other.seen_from(place)}, alike to about {similarity:.0%}",
                path=place.path,
                line=place.line,
                data=(("other_path", other.path), ("other_line", other.line), ("similarity", round(similarity, 2))),
            )


@rule("KTO603", "duplicate-image", Severity.INFO, Stage.DATASET, default=False, needs=ImageCheck.HEADER)
def duplicate_image(facts: DatasetFacts) -> Iterator[Defect]:
    """An image should have one name.

    The same bytes under two names hide that two prompts are the same, from the rules about duplicates and about
    leakage and from whoever splits the data by image. Every image file is read in full, remote ones left out. Looked at
    is each split by itself: what is in two of them is leakage (KTO612).

    Bad:  `cat.jpg` and `copies/cat (1).jpg`, the same file
    Good: `cat.jpg` for both records
    """
    for split in facts.splits.values():
        yield from _copies(split)


def _copies(split: SplitFacts) -> Iterator[Defect]:
    first: dict[int, ImageFile] = {}
    for file in split.files.values():
        original = first.setdefault(file.digest, file)
        if original is not file:
            which = f"{shown_path(original.given)} of {original.seen_from(file)}"
            yield Defect(
                f"{shown_path(file.given)} is {which}, byte for byte",
                path=file.path,
                line=file.line,
                data=(("other_path", original.path), ("other_line", original.line)),
            )

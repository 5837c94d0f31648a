"""KTO113 to KTO116: what is true of a whole file."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import ConfigFacts, DatasetFacts
from kto_data.rules.words import counted

LINE_ENDING_CODES = frozenset({"KTO113", "KTO115"})
"""The rules for which a file is read once more, as bytes."""

_END = {True: "ends", False: "end"}


@rule("KTO113", "no-final-newline", Severity.INFO, Stage.DATASET, fix=Fix.SAFE, default=False)
def no_final_newline(facts: DatasetFacts) -> Iterator[Defect]:
    r"""The last line of a file should end like all others.

    Where it does not, the upload may have been cut short, between two records by luck. Files that are put one behind
    the other then share a line.

    Bad:  a file that ends with `}`
    Good: a file that ends with `}\n`
    """
    for path, endings in facts.endings.items():
        if endings.unended:
            yield Defect("the last line has no line end", path=path, line=endings.unended)


@rule("KTO114", "mixed-formats", Severity.ERROR, Stage.DATASET)
def mixed_formats(facts: DatasetFacts) -> Iterator[Defect]:
    """All records of a dataset must have the same format.

    Trainers look at the first record to decide how to read the others; column-wise readers fill the gaps with nulls.
    `ktodata convert` writes records of all formats in one.

    Bad:  one record with `messages`, the next with `prompt` and `completion`
    Good: one format throughout
    """
    first, *others = facts.formats.items() or [("", ("", 0))]  # no format at all: no record could be read
    for name, (path, line) in others:
        yield Defect(
            f"the format is {name} here, but {first[0]} at {first[1][0]}:{first[1][1]}",
            path=path,
            line=line,
            data=(("format", name), ("first", first[0])),
        )


@rule("KTO115", "crlf-endings", Severity.INFO, Stage.DATASET, fix=Fix.SAFE, default=False)
def crlf_endings(facts: DatasetFacts) -> Iterator[Defect]:
    r"""Lines should end in LF alone.

    Files written on Windows end them in CR LF. Most readers take both; comparing files by their bytes does not, and
    the same data gets another checksum.

    Bad:  `}\r\n`
    Good: `}\n`
    """
    for path, endings in facts.endings.items():
        if endings.num_crlf:
            count, total = endings.num_crlf, endings.num_lines
            lines = "all lines end" if count == total else f"{count:,} of {counted(total, 'line')} {_END[count == 1]}"
            yield Defect(
                f"{lines} in CR LF",
                path=path,
                line=endings.first_crlf,
                data=(("lines", count), ("of", total)),
            )


@rule("KTO116", "unmapped-images", Severity.ERROR, Stage.CONFIG)
def unmapped_images(facts: ConfigFacts) -> Iterator[Defect]:
    """Where records have images, the column mapping must name them.

    In a `dataset_info.json`, a column that is not mapped is absent: training goes on, on text alone, and nothing says
    so.

    Bad:  `"columns": {"messages": "messages", "kto_tag": "label"}`
    Good: `"columns": {"messages": "messages", "kto_tag": "label", "images": "images"}`
    """
    for path, (line, count) in facts.unmapped_images.items():
        records = "1 record has" if count == 1 else f"{count:,} records have"
        message = f'{records} images, but the column mapping names no images column: add "images": "images" to it'
        yield Defect(message, path=path, line=line, data=(("records", count),))

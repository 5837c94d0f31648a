"""KTO402: the label of one record. What concerns all labels together is in `corpus`."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.row import Row
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.words import kind


@rule("KTO402", "label-not-boolean", Severity.ERROR, Stage.ROW, fix=Fix.SAFE)
def label_not_boolean(row: Row) -> Iterator[Defect]:
    """The label must be the JSON boolean `true` or `false`.

    Anything else is read differently by each tool: `bool("false")` is true, so that an undesirable answer becomes a
    desirable one.

    Bad:  `"label": "false"`
    Good: `"label": false`
    """
    for error in row.schema_errors:
        if error.pointer == "/label" and error.type != "missing":
            yield Defect(f"the label is {_shown(error.value)}, must be true or false", error.pointer)


def _shown(value: object) -> str:
    """The value where it is short enough to be a label, otherwise its kind."""
    if isinstance(value, str) and len(value) <= 20:
        return f'the string "{value}"'
    if isinstance(value, int | float):
        return f"the number {value}"
    return kind(value)

"""KTO402 and KTO803: the label of one record. What concerns all labels together is in `corpus`."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.row import Row
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.refusal import is_refusal
from kto_data.rules.words import kind

_SHORT = 20  # characters of a value that may be meant as a label


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
            shown, quotes = _shown(error.value)
            yield Defect(
                f"the label is {shown}, must be true or false",
                error.pointer,
                quotes=quotes,
                data=tuple(("value", quote) for quote in quotes),
            )


@rule("KTO803", "refusal-labelled-true", Severity.WARNING, Stage.ROW, default=False)
def refusal_labelled_true(row: Row) -> Iterator[Defect]:
    """A refusal should not be labelled desirable, unless that is meant.

    Raters like polite answers, and a model that is rewarded for declining declines more and more. Completions are
    looked at that begin as refusals do, in English, Chinese, French, German, Italian, Portuguese and Spanish.

    Bad:  "I'm sorry, but I can't help with that.", `"label": true`, where the question was harmless
    Good: an answer
    """
    if row.label and row.messages and row.messages[-1].role == "assistant":
        last = row.messages[-1]
        if is_refusal(last.text or ""):
            yield Defect("the completion reads like a refusal, and is labelled true", f"/messages/{last.index}/content")


def _shown(value: object) -> tuple[str, tuple[str, ...]]:
    """The value where it is short enough to be a label, otherwise its kind; and what of that is the record's own."""
    if isinstance(value, str) and len(value) <= _SHORT:
        is_label = value.lower() in ("true", "false")
        return f'the string "{value}"', () if is_label else (value,)
    if isinstance(value, int | float) and len(str(value)) <= _SHORT:
        return f"the number {value}", (str(value),)
    return kind(value), ()

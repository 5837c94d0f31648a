"""Findings for people: `full`, grouped by rule with the worst first, and `concise`, one a line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kto_data.balance import Verdict, admissible_weights
from kto_data.finding import Finding, Severity
from kto_data.remarks import Remark, remarks
from kto_data.rules.base import Fix
from kto_data.rules.words import counted
from kto_data.safe_text import as_word, printable
from kto_data.validation import RuleCount, Validation

WIDTH = 80
_BAR_WIDTH = 30
_INDENT = "    "
_COLORS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.INFO: "34"}
_BOLD, _DIM, _GREEN = "1", "2", "32"
FIX_WORDS = {
    Fix.SAFE: "--fix mends it where it is plain what was meant",
    Fix.UNSAFE: "look before you mend it: the right value is a guess",
    Fix.REJECT: "cannot be mended: leave the record out",
    Fix.NONE: "needs a person",
}
"""What can be done about the findings of a rule."""


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, *, color: bool) -> None:
        self._color = color

    def __call__(self, text: str, *codes: str) -> str:
        """`text` in the given SGR codes."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self._color and text else text

    def severity(self, text: str, severity: Severity) -> str:
        """`text` in the colour of a severity."""
        return self(text, _BOLD, _COLORS[severity])


def concise_line(finding: Finding) -> str:
    """`path:line: CODE message`, on one line whatever the message holds."""
    return printable(f"{finding.location}: {finding.code} {finding.message}")


def full_report(validation: Validation, *, show: int, paint: Paint, quiet: bool = False) -> Iterator[str]:
    """The lines of the report: findings by rule, then label balance and skipped rules unless `quiet`.

    `show`: samples a rule.
    """
    for count in validation.worst_first():
        yield from _rule_lines(count, show, paint)
        yield ""
    if quiet:
        return
    yield from _balance_lines(validation, paint)
    aside, survey = "what no rule forbids (ktodata stats has the numbers)", validation.survey
    lines = [*remark_lines(remarks(survey), paint, aside, num_splits=len(survey.splits))]
    yield from ("", *lines) if lines else ()
    if validation.skipped:
        yield ""
        yield from _skipped_lines(validation, paint)


def summary_line(validation: Validation) -> str:
    """One line such as "413 errors, 2 warnings in 1,200 rows of 1 file"."""
    found = [
        counted(validation.by_severity[severity], noun)
        for severity, noun in ((Severity.ERROR, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "note"))
        if validation.by_severity[severity] or severity is Severity.ERROR
    ]
    where = f"in {counted(validation.num_rows, 'row')} of {counted(len(validation.inputs), 'file')}"
    return f"{', '.join(found)} {where}" if validation.counts else f"nothing found {where}"


def next_command(validation: Validation) -> str:
    """What to type next: about the worst rule while there are errors, the next step otherwise."""
    if validation.by_severity[Severity.ERROR]:
        return f"ktodata rule {validation.worst_first()[0].rule.code}"
    paths = " ".join(as_word(entry.path) for entry in validation.inputs[:2])
    more = " …" if len(validation.inputs) > 2 else ""
    return f"ktodata preprocess {paths}{more} --model MODEL --output CACHE"


def cut(text: str, most: int) -> str:
    """`text` made printable, its middle left out where it is long."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most * 3 // 4]} … {text[len(text) - most // 4 :]}"


def _rule_lines(count: RuleCount, show: int, paint: Paint) -> Iterator[str]:
    rule = count.rule
    total = counted(count.count, "finding")
    if count.num_rows not in (0, count.count):
        total += f" in {counted(count.num_rows, 'row')}"
    head = paint.severity(f"{count.severity.value} {rule.code}", count.severity)
    yield f"{head} {paint(rule.name, _BOLD)}  {paint(total, _DIM)}"
    yield from _wrapped(rule.doc.partition("\n")[0], "  ", paint)
    yield ""
    for finding in count.findings[:show]:
        yield _INDENT + paint(printable(str(finding.location)), "36") + _pointer(finding, paint)
        yield from textwrap.wrap(
            printable(finding.message),
            WIDTH,
            initial_indent=_INDENT + "  ",
            subsequent_indent=_INDENT + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    if count.count > show:
        yield _INDENT + paint(f"… and {count.count - show:,} more", _DIM)
    yield f"  {paint('fix:', _DIM)} {FIX_WORDS[rule.fix]} {paint(f'(ktodata rule {rule.code})', _DIM)}"


def _pointer(finding: Finding, paint: Paint) -> str:
    return f"  {paint(printable(finding.location.pointer), _DIM)}" if finding.location.pointer else ""


def _wrapped(text: str, indent: str, paint: Paint) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - len(indent)):
        yield indent + paint(line, _DIM)


def _balance_lines(validation: Validation, paint: Paint) -> Iterator[str]:
    numbers = {"desirable": validation.num_desirable, "undesirable": validation.num_undesirable}
    total = sum(numbers.values())
    if not total:
        yield f"{paint('labels', _BOLD)}  none of the rows has a label that can be read"
        return
    yield paint("labels", _BOLD)
    for name, number in numbers.items():
        bar = "█" * round(_BAR_WIDTH * number / total)
        yield f"  {name:<11} {number:>9,}  {paint(f'{bar:<{_BAR_WIDTH}}', _GREEN)} {number / total:>4.0%}"
    weights = admissible_weights(validation.num_desirable, validation.num_undesirable)
    if weights.verdict is Verdict.UNDEFINED or weights.trl is None:
        yield "  balance undefined: one label has no samples"
    elif weights.verdict is Verdict.BALANCED:
        yield f"  balance {weights.balance:.3g}, within [1, 4/3]: train with both weights at 1"
    else:
        yield f"  balance {weights.balance:.3g}, outside [1, 4/3]; change one weight, to within"
        yield f"    desirable_weight   {weights.trl.desirable}"
        yield f"    undesirable_weight {weights.trl.undesirable}"


def remark_lines(found: Sequence[Remark], paint: Paint, aside: str, *, num_splits: int) -> Iterator[str]:
    """The block "worth a look", with a few words behind its title; no line where nothing is."""
    if found:
        yield f"{paint('worth a look', _BOLD)}  {paint(aside, _DIM)}"
    for remark in found:
        text = printable(remark.text if num_splits < 2 else f"{remark.split}: {remark.text}")
        yield from textwrap.wrap(
            text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )


def _skipped_lines(validation: Validation, paint: Paint) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for rule, reason in validation.skipped:
        by_reason.setdefault(reason, []).append(rule.code)
    yield paint("skipped", _BOLD)
    for reason, codes in by_reason.items():
        yield from textwrap.wrap(f"{', '.join(codes)}: {reason}", WIDTH, initial_indent="  ", subsequent_indent="  ")

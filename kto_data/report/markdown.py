"""The result as Markdown: for a comment on a change, and for GitHub's step summary."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Finding
from kto_data.report.outcome import Outcome
from kto_data.report.text import cut, summary_line
from kto_data.safe_text import printable
from kto_data.triage import hidden_words
from kto_data.validation import RuleCount

_MOST_RULES_WITH_SAMPLES = 30
_SAMPLE_BYTES = 400_000  # of all samples together: GitHub refuses a step's summary of more than a megabyte
_MOST_OF_MESSAGE, _MOST_OF_PLACE = 400, 200  # characters


def markdown_report(outcome: Outcome) -> str:
    """A table of rules, the first findings of each, the labels, what was skipped."""
    validation = outcome.validation
    lines = [f"### ktodata validate: {summary_line(validation)}", ""]
    if validation.counts:
        lines += ["| rule | severity | findings | first at | |", "|---|---|--:|---|---|"]
        lines += [_row(outcome, count) for count in outcome.worst_first]
        lines.append("")
    room = _SAMPLE_BYTES
    for count in outcome.worst_first[:_MOST_RULES_WITH_SAMPLES]:
        samples = list(_samples(outcome, count))
        room -= sum(len(line.encode()) + 1 for line in samples)
        lines += samples if room >= 0 else []
    if room < 0:
        lines += ["More findings of these rules are in the other reports: there is no room for them here.", ""]
    lines.append(f"Labels: {validation.num_desirable:,} desirable, {validation.num_undesirable:,} undesirable.")
    if validation.hidden:
        lines += ["", f"Not shown: {hidden_words(validation.hidden)}."]
    lines += [f"Skipped {rule.code} {rule.name}: {cell(reason)}." for rule, reason in validation.skipped]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that cannot leave its table cell, nor become a link or markup."""
    text = printable(text)
    for char, instead in (("\\", "\\\\"), ("|", "\\|"), ("`", "'"), ("<", "&lt;"), ("[", "\\["), ("*", "\\*")):
        text = text.replace(char, instead)
    return text


def _row(outcome: Outcome, count: RuleCount) -> str:
    first = count.findings[0]
    where = outcome.relative(first.location.path) + (f":{first.location.line}" if first.location.line else "")
    cells = (
        f"{count.rule.code} {count.rule.name}",
        count.severity.value,
        f"{count.count:,}",
        f"`{_place(where)}`",
        _message(first),
    )
    return f"| {' | '.join(cells)} |"


def _place(text: str) -> str:
    return cell(cut(text, _MOST_OF_PLACE))


def _message(finding: Finding) -> str:
    return cell(cut(finding.message, _MOST_OF_MESSAGE))


def _samples(outcome: Outcome, count: RuleCount) -> Iterator[str]:
    if count.count < 2 or outcome.show < 2:
        return
    yield f"<details><summary>{count.rule.code} {count.rule.name}: {count.count:,}</summary>"
    yield ""
    for finding, _ in outcome.samples(count, outcome.show):
        yield f"- `{_place(str(finding.location))}` {_message(finding)}"
    yield ""
    yield "</details>"
    yield ""

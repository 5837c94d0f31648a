"""Findings as GitHub shows them: annotations by workflow command, and the step summary in Markdown.

GitHub shows ten errors and ten warnings of a step, so that there is one annotation a rule, at its first record.
"""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.report.text import printable, summary_line
from kto_data.validate import RuleCount, Validation

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_LINES_NAMED = 5


def annotate(validation: Validation) -> Iterator[str]:
    """One workflow command for each rule that found something, the worst first."""
    for count in validation.worst_first():
        location = count.findings[0].location
        properties = {
            "file": location.path,
            "line": "" if location.line is None else str(location.line),
            "title": f"{count.rule.code} {count.rule.name}",
        }
        given = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items() if value)
        yield f"::{_COMMANDS[count.severity]} {given}::{_escape_data(_message(count))}"


def step_summary(validation: Validation) -> str:
    """The result as Markdown; one row a rule, so that it stays far under GitHub's limit of 1 MiB."""
    lines = [f"### ktodata validate: {summary_line(validation)}", ""]
    if validation.counts:
        lines += ["| rule | severity | findings | first at | |", "|---|---|--:|---|---|"]
    for count in validation.worst_first():
        first = count.findings[0]
        cells = (
            f"{count.rule.code} {count.rule.name}",
            count.severity.value,
            f"{count.count:,}",
            f"`{_cell(str(first.location))}`",
            _cell(first.message),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Labels: {validation.num_desirable:,} desirable, {validation.num_undesirable:,} undesirable."]
    for rule, reason in validation.skipped:
        lines.append(f"Skipped {rule.code} {rule.name}: {reason}.")
    return "\n".join(lines) + "\n"


def _message(count: RuleCount) -> str:
    first = count.findings[0]
    if count.count == 1:
        return first.message
    lines = dict.fromkeys(str(f.location.line) for f in count.findings if f.location.line is not None)
    named = ", ".join(list(lines)[:_LINES_NAMED])
    rows = f"{count.num_rows:,} rows" if count.num_rows > 1 else f"{count.count:,} findings"
    return f"{rows}{f', e.g. {named}' if named else ''}: {first.message}"


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """Text that cannot leave its table cell, nor become a link or markup."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")

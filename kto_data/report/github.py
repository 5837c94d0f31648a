"""Findings as GitHub shows them beside the files: annotations, by workflow command.

GitHub shows ten errors and ten warnings of a step, so that there is one annotation a rule, at its first record.
"""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.report.text import printable
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


def _message(count: RuleCount) -> str:
    first = count.findings[0]
    if count.count == 1:
        return first.message
    lines = dict.fromkeys(str(f.location.line) for f in count.findings if f.location.line is not None)
    named = ", ".join(list(lines)[:_LINES_NAMED])
    rows = f"{count.num_rows:,} rows" if count.num_rows > 1 else f"{count.count:,} findings"
    return f"{rows}{f', e.g. {named}' if named else ''}: {first.message}"


def _escape_data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")

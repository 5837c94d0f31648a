"""Findings as GitHub shows them beside the files: annotations, by workflow command.

GitHub shows ten annotations of each kind a step, so that there is one a rule, at its first record. Of more rules the
rest stand in the log, and the tenth annotation says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from kto_data.finding import Severity
from kto_data.rules.words import counted
from kto_data.safe_text import printable
from kto_data.validation import RuleCount, Validation

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_LINES_NAMED = 5
_MOST_OF_A_KIND = 10


def annotate(validation: Validation, name: Callable[[str], str] = str) -> Iterator[str]:
    """A line for each rule that found something, the worst first: of each severity the first ones as workflow
    commands, the others for the log. `name`: a path as the code host has it."""
    for severity, group in groupby(validation.worst_first(), key=lambda count: count.severity):
        counts = list(group)
        further = counts[_MOST_OF_A_KIND:]
        for index, count in enumerate(counts[:_MOST_OF_A_KIND]):
            message = _message(count)
            if further and index == _MOST_OF_A_KIND - 1:
                rules = counted(len(further), "more rule")
                message += f" (and {rules} of severity {severity.value}: see the log or the step summary)"
            yield _command(count, message, name)
        for count in further:
            yield _log_line(count)


def _command(count: RuleCount, message: str, name: Callable[[str], str]) -> str:
    location = count.findings[0].location
    properties = {
        "file": name(location.path),
        "line": "" if location.line is None else str(location.line),
        "title": f"{count.rule.code} {count.rule.name}",
    }
    given = ",".join(f"{key}={_escape_property(value)}" for key, value in properties.items() if value)
    return f"::{_COMMANDS[count.severity]} {given}::{_escape_data(message)}"


def _log_line(count: RuleCount) -> str:
    text = (
        f"{count.severity.value} {count.rule.code} {count.rule.name}: {count.findings[0].location}: {_message(count)}"
    )
    # The one command that a runner looks for in the middle of a line.
    return printable(text).replace("##[", "## [")


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

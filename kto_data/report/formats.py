"""The formats of `--output-format` and `--report`: name -> how an outcome is written in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kto_data.finding import Severity
from kto_data.report.github import annotate
from kto_data.report.gitlab import gitlab_report
from kto_data.report.junit import junit_report
from kto_data.report.markdown import markdown_report
from kto_data.report.outcome import Outcome
from kto_data.report.sarif import sarif_report
from kto_data.report.text import Paint, concise_line, full_report
from kto_data.safe_text import printable

Render = Callable[[Outcome], str]


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _full(outcome: Outcome) -> str:
    paint = Paint(color=outcome.color)
    return _joined(full_report(outcome.validation, show=outcome.show, paint=paint, quiet=outcome.quiet))


def _concise(outcome: Outcome) -> str:
    findings = (finding for count in outcome.worst_first for finding in count.findings)
    return _joined(map(concise_line, sorted(findings, key=lambda finding: finding.sort_key())))


def _grouped(outcome: Outcome) -> str:
    """Findings by file, as ruff has them: the first ones of each."""
    lines = []
    for entry in outcome.validation.inputs:
        findings = [f for count in outcome.worst_first for f in count.findings if f.location.path == entry.path]
        if not findings:
            continue
        lines.append(f"{printable(entry.path)}:")
        for finding in sorted(findings, key=lambda finding: finding.sort_key()):
            line = "" if finding.location.line is None else f"{finding.location.line}:"
            lines.append(f"  {line:<8} {finding.code} {printable(finding.message)}")
        lines.append("")
    return _joined(lines)


def _json(outcome: Outcome) -> str:
    from kto_data.report.document import document_text  # and with it pydantic, which other formats need not wait for

    return document_text(outcome)


def _json_lines(outcome: Outcome) -> str:
    from kto_data.report.document import finding_entry

    return _joined(
        finding_entry(finding, count.rule, column).model_dump_json()
        for count in outcome.worst_first
        for finding, column in outcome.samples(count, len(count.findings))
    )


def _github(outcome: Outcome) -> str:
    return _joined(annotate(outcome.validation, outcome.relative))


def _html(outcome: Outcome) -> str:
    from kto_data.report.html import html_report  # and with it the survey's words and Pillow's home

    return html_report(outcome)


def statistics(outcome: Outcome) -> str:
    """Exact counts, one line a rule: the worst first."""
    return _joined(
        f"{count.count:>9,}  {count.rule.code}  {count.severity.value:<{len(Severity.WARNING)}}  {count.rule.name}"
        for count in outcome.worst_first
    )


FORMATS: dict[str, Render] = {
    "full": _full,
    "concise": _concise,
    "grouped": _grouped,
    "json": _json,
    "json-lines": _json_lines,
    "github": _github,
    "gitlab": gitlab_report,
    "junit": junit_report,
    "sarif": sarif_report,
    "markdown": markdown_report,
    "html": _html,
}

"""Findings as JUnit XML: a suite a file, a case a rule, also of rules that passed. The home of junitparser."""

from __future__ import annotations

from kto_data.report.outcome import Outcome
from kto_data.report.text import printable
from kto_data.validate import RuleCount

_LINES_A_CASE = 20


def junit_report(outcome: Outcome) -> str:
    """The report. Rules about the whole dataset stand in the suite of the file where they found something."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    validation = outcome.validation
    report = JUnitXml("ktodata validate")
    for entry in validation.inputs:
        suite = TestSuite(outcome.relative(entry.path))
        cases = []
        for rule in validation.rules:
            case = TestCase(f"{rule.code} {rule.name}", classname=outcome.relative(entry.path))
            count = validation.counts.get(rule.code)
            if count is not None and count.by_path[entry.path]:
                failure = Failure(f"{count.by_path[entry.path]:,} findings", count.severity.value)
                failure.text = _lines(count, entry.path)
                case.result = [failure]
            cases.append(case)
        for rule, reason in validation.skipped:
            case = TestCase(f"{rule.code} {rule.name}", classname=outcome.relative(entry.path))
            case.result = [Skipped(reason)]
            cases.append(case)
        suite.add_testcases(cases)
        report.add_testsuite(suite)
    text: bytes = report.tostring()
    return text.decode() + "\n"


def _lines(count: RuleCount, path: str) -> str:
    here = [finding for finding in count.findings if finding.location.path == path][:_LINES_A_CASE]
    lines = [printable(f"{finding.location}: {finding.message}") for finding in here]
    left = count.by_path[path] - len(here)
    return "\n".join([*lines, *([f"… and {left:,} more"] if left else [])])

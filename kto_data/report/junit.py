"""Findings as JUnit XML: a suite a file, a case a rule, also of rules that passed. The home of junitparser."""

from __future__ import annotations

from kto_data.report.outcome import Outcome
from kto_data.rules.words import counted
from kto_data.safe_text import printable
from kto_data.validation import RuleCount

_LINES_A_CASE = 20


def junit_report(outcome: Outcome) -> str:
    """The report. Rules about the whole dataset stand in the suite of the file where they found something, and what
    was found about other files than the data in suites of those."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    validation = outcome.validation
    names = {rule.code: f"{rule.code} {rule.name}" for rule in validation.rules}
    names |= {code: f"{code} {count.rule.name}" for code, count in validation.counts.items()}
    report = JUnitXml("ktodata validate")
    data = [entry.path for entry in validation.inputs]
    others = dict.fromkeys(path for count in outcome.worst_first for path in count.by_path if path not in set(data))
    for path in (*data, *others):
        shown = printable(outcome.relative(path))  # XML has no way to write control characters
        suite = TestSuite(shown)
        cases = []
        for code, name in names.items():
            case = TestCase(name, classname=shown)
            count = validation.counts.get(code)
            if count is not None and count.by_path[path]:
                failure = Failure(counted(count.by_path[path], "finding"), count.severity.value)
                failure.text = _lines(count, path)
                case.result = [failure]
            elif path in others:
                continue
            cases.append(case)
        for rule, reason in validation.skipped if path not in others else ():
            case = TestCase(f"{rule.code} {rule.name}", classname=shown)
            case.result = [Skipped(reason)]
            cases.append(case)
        suite.add_testcases(cases)
        report.add_testsuite(suite)
    report.update_statistics()
    text: bytes = report.tostring()
    return text.decode() + "\n"


def _lines(count: RuleCount, path: str) -> str:
    here = [finding for finding in count.findings if finding.location.path == path][:_LINES_A_CASE]
    lines = [printable(f"{finding.location}: {finding.message}") for finding in here]
    left = count.by_path[path] - len(here)
    return "\n".join([*lines, *([f"… and {left:,} more"] if left else [])])

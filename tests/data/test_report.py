"""What is said of a run, in text, for GitHub, and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kto_data.finding import Finding, Location, Severity
from kto_data.report.document import report_document
from kto_data.report.github import annotate
from kto_data.report.markdown import markdown_report
from kto_data.report.outcome import FileDigest, Outcome
from kto_data.report.text import Paint, concise_line, full_report, next_command, summary_line
from kto_data.rules import ALL_RULES
from kto_data.safe_text import printable
from kto_data.validation import InputCount, RuleCount, Validation

_PLAIN = Paint(color=False)


def _outcome(validation: Validation, digests: dict[str, FileDigest] | None = None) -> Outcome:
    return Outcome(validation=validation, failed=True, exit_code=1, digests=digests or {})


def _finding(code: str = "KTO305", line: int | None = 7, message: str = "2 image placeholders, but 1 image") -> Finding:
    location = Location(path="data.jsonl", line=line, byte_offset=9, pointer="/messages")
    return Finding(code=code, severity=Severity.ERROR, location=location, message=message, record_id="a", row_hash="0f")


def _validation(findings: Sequence[Finding] = (), **overrides: object) -> Validation:
    counts: dict[str, RuleCount] = {}
    for finding in findings:
        rule = next(rule for rule in ALL_RULES if rule.code == finding.code)
        counts.setdefault(rule.code, RuleCount(rule)).add(finding)
    validation = Validation(
        inputs=(InputCount("data.jsonl", 1200, 1190),),
        counts=counts,
        rules=ALL_RULES,
        skipped=(),
        num_desirable=900,
        num_undesirable=300,
    )
    return replace(validation, **overrides)  # type: ignore[arg-type]


def test_full_report_shows_samples_totals_fix_and_balance() -> None:
    findings = [_finding(line=line) for line in range(1, 8)]
    assert list(full_report(_validation(findings), show=2, paint=_PLAIN)) == [
        "error KTO305 image-placeholder-mismatch  7 findings",
        "  Placeholders and images must agree in number.",
        "",
        "    data.jsonl:1  /messages",
        "      2 image placeholders, but 1 image",
        "    data.jsonl:2  /messages",
        "      2 image placeholders, but 1 image",
        "    … and 5 more",
        "  fix: look before you mend it: the right value is a guess (ktodata rule KTO305)",
        "",
        "labels",
        "  desirable         900  ██████████████████████          75%",
        "  undesirable       300  ████████                        25%",
        "  balance 3, outside [1, 4/3]; change one weight, to within",
        "    desirable_weight   [0.3333, 0.4444]",
        "    undesirable_weight [2.25, 3]",
    ]


def test_full_report_names_what_was_skipped_once_a_reason() -> None:
    skipped = tuple((rule, "needs a look") for rule in ALL_RULES[:2])
    assert list(full_report(_validation(skipped=skipped), show=5, paint=_PLAIN))[-2:] == [
        "skipped",
        "  KTO101, KTO102: needs a look",
    ]


def test_full_report_fits_80_columns_but_never_cuts_a_path() -> None:
    finding = _finding(message="word " * 60)
    lines = list(full_report(_validation([finding]), show=5, paint=_PLAIN))
    assert max(map(len, lines)) <= 80
    long = replace(finding, location=replace(finding.location, path="p" * 200))
    assert any("p" * 200 + ":7" in line for line in full_report(_validation([long]), show=5, paint=_PLAIN))


@pytest.mark.parametrize(
    ("counts", "said"), [((0, 0), "none of the rows"), ((5, 0), "balance undefined"), ((5, 5), "within [1, 4/3]")]
)
def test_balance_is_told_for_any_counts(counts: tuple[int, int], said: str) -> None:
    validation = _validation(num_desirable=counts[0], num_undesirable=counts[1])
    assert said in "\n".join(full_report(validation, show=5, paint=_PLAIN))


def test_summary_counts_each_severity() -> None:
    warning = replace(_finding("KTO601"), severity=Severity.WARNING)
    assert summary_line(_validation([_finding(), _finding(line=8), warning])) == (
        "2 errors, 1 warning in 1,200 rows of 1 file"
    )
    assert summary_line(_validation()) == "nothing found in 1,200 rows of 1 file"


def test_next_command_explains_the_worst_rule_or_goes_on() -> None:
    assert next_command(_validation([_finding("KTO601"), _finding()])) == "ktodata rule KTO305"
    assert next_command(_validation()).startswith("ktodata preprocess data.jsonl --model")


def test_data_cannot_command_a_terminal() -> None:
    assert printable("a\x1b[31m\nb\u202e é") == "a\\x1b[31m\\nb\\u202e é"
    assert concise_line(_finding(message="x\ny")) == "data.jsonl:7: KTO305 x\\ny"


def test_annotation_counts_and_names_lines() -> None:
    findings = [_finding(line=line) for line in (25, 31, 77)]
    assert list(annotate(_validation(findings))) == [
        "::error file=data.jsonl,line=25,title=KTO305 image-placeholder-mismatch::"
        "3 rows, e.g. 25, 31, 77: 2 image placeholders, but 1 image"
    ]


def test_annotation_escapes_what_github_would_read() -> None:
    finding = replace(_finding(message="50%\n::error::x"), location=Location(path="a,b:c%.jsonl", line=None))
    (line,) = annotate(_validation([finding]))
    assert line.startswith("::error file=a%2Cb%3Ac%25.jsonl,title=KTO305 image-placeholder-mismatch::50%25")
    assert "\n" not in line


def test_markdown_keeps_data_inside_its_cell() -> None:
    summary = markdown_report(_outcome(_validation([_finding(message="a | b <img src=x> `c`\n# d")])))
    assert "| a \\| b &lt;img src=x> 'c'\\\\n# d |" in summary


def test_document_flags_what_was_not_kept() -> None:
    validation = _validation([_finding(line=line) for line in range(1, 5)])
    validation.counts["KTO305"].findings[1:] = []
    document = report_document(_outcome(validation, {"data.jsonl": FileDigest("ab", 9)}))
    (entry,) = [rule for rule in document.rules if rule.code == "KTO305"]
    assert (entry.count, entry.rows, entry.stored, entry.truncated, entry.status) == (4, 4, 1, True, "failed")
    assert (document.summary.errors, len(document.findings)) == (4, 1)
    assert document.findings[0].row_id == "a"
    assert (document.inputs[0].sha256, document.inputs[0].bytes) == ("ab", 9)

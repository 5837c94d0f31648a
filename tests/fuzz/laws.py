"""What must hold of any bytes at all: the laws that fuzzing looks for a breach of, and that its finds are kept by."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from kto_data.check import CheckSettings, LineChecker, check_dataset
from kto_data.chunk import Line
from kto_data.clean import Gate
from kto_data.errors import KtoDataError
from kto_data.finding import Finding, Severity
from kto_data.formats import Format, Layout
from kto_data.image import ImageCheck, load_upright, probe
from kto_data.inputs import Input
from kto_data.noting import describe, note
from kto_data.opening import open_source
from kto_data.report.text import Paint, concise_line, full_report
from kto_data.rules import ALL_RULES
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.rules.facts import DatasetFacts
from kto_data.validate import validate

EVERY_RULE = frozenset(rule.code for rule in ALL_RULES)
LAYOUTS = (
    Layout(),
    *(Layout(format=format) for format in Format),
    Layout(columns={"messages": "chat", "images": "pics"}),
    Layout(format=Format.SHAREGPT, columns={"messages": "messages", "label": "label"}, mapped_only=True),
)
FILE_KINDS = ("jsonl", "json", "jsonl.gz", "json.gz")
_MAX_DECODED_PIXELS = 1_000_000
_checkers: dict[tuple[int, bool], tuple[LineChecker, Gate]] = {}


def hold_line_laws(raw: bytes, layout_index: int = 0, *, every_rule: bool = True) -> None:
    """A line of any bytes gets findings that can be printed, and is lost only with an error that says why."""
    key = (layout_index % len(LAYOUTS), every_rule)
    if key not in _checkers:
        settings = CheckSettings(images=ImageCheck.OFF, image_root=Path("/nonexistent"))
        if every_rule:
            settings = CheckSettings(images=ImageCheck.OFF, image_root=Path("/nonexistent"), codes=EVERY_RULE)
        checker = LineChecker(LAYOUTS[key[0]], settings)
        _checkers[key] = checker, Gate(checker)
    checker, gate = _checkers[key]
    line = Line(path="data.jsonl", number=7, byte_offset=70, raw=raw)
    checked = checker.check(line)
    _hold_finding_laws(checked.findings)
    assert checker.check(line) == checked
    if checked.labels and not checked.samples:
        assert any(finding.severity is Severity.ERROR for finding in checked.findings), "lost in silence"
    if not checked.labels:
        assert checked.findings, "a blank line that nobody speaks of"
    sample = gate.clean(raw, line.path)
    if sample is not None:
        assert checked.findings == (), "the gate let it pass"
        assert [describe(item.record) for item in checked.samples] == [sample]
    facts, dataset = ChunkFacts(line.path), DatasetFacts()
    note(checked, facts)
    dataset.extend(facts)
    _hold_finding_laws(tuple(check_dataset(dataset, checker.settings)))


def hold_file_laws(data: bytes, kind: str, folder: Path) -> None:
    """A file of any bytes is reported on, or refused as a whole with an error of ours; lines lie where they say."""
    path = folder / f"data.{kind}"
    path.write_bytes(data)
    try:
        source = open_source(str(path))
        lines = [line for chunk in source.chunks(3) for line in chunk.lines()]
    except KtoDataError as error:
        str(error).encode()
        return
    assert lines
    for line in lines if kind in ("jsonl", "json") else ():
        if not (data.startswith(b"\xef\xbb\xbf") and line is lines[0]):
            assert data[line.byte_offset : line.byte_offset + len(line.raw)] == line.raw
        assert line.number == 1 + data[: line.byte_offset].count(b"\n")
    settings = CheckSettings(images=ImageCheck.OFF, codes=EVERY_RULE)
    found: list[Finding] = []
    try:
        validation = validate([Input(source, Layout())], settings, listen=found.extend)
    except KtoDataError as error:
        str(error).encode()
        return
    _hold_finding_laws(tuple(found))
    "\n".join(full_report(validation, show=5, paint=Paint(color=True))).encode()


def hold_image_laws(data: bytes, path: Path) -> None:
    """A file of any bytes gets a probe; what is taken for whole and decodes has the size that its header said."""
    path.write_bytes(data)
    root = Path(os.path.realpath(path.parent))
    seen = probe(path.name, root, ImageCheck.HEADER)
    seen.detail.encode()
    header = seen.header
    if header is None:
        return
    assert header.width >= 0
    assert header.height >= 0
    if 0 < header.pixels <= _MAX_DECODED_PIXELS:
        decoded = probe(path.name, root, ImageCheck.DECODE)
        assert decoded.header == header
        if decoded.status.name == "OK":
            assert load_upright(path).size == (header.width, header.height)


def _hold_finding_laws(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        assert finding.message
        assert finding.code != "KTO902", f"a rule crashed: {finding.message}"
        assert "\n" not in concise_line(finding)
        for text in (concise_line(finding), finding.location.pointer, finding.record_id or "", *finding.quotes):
            text.encode()
        assert finding.location.pointer[:1] in ("", "/")
        assert all(quote in finding.message for quote in finding.quotes), "a quote that the message has not"
        orjson.dumps(dict(finding.data))
        finding.redacted().message.encode()

"""What a rule finds about its subject, as findings.

AnyRule, subject ─▶ Defect(s) ─▶ Finding(s)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache

import orjson

from kto_data.errors import KtoDataError
from kto_data.finding import Finding, Location
from kto_data.json_array import is_too_large
from kto_data.row import Row
from kto_data.rules.base import AnyRule, Defect
from kto_data.rules.facts import Crash, DatasetFacts
from kto_data.rules.run import rule_crashed
from kto_data.safe_text import encodable


def run_rule(rule: AnyRule, subject: object) -> Iterator[tuple[AnyRule, Defect]]:
    """What a rule finds about its subject, each with the rule that says so; an exception in it becomes a finding of
    KTO902, so that it neither ends the run nor passes for a sound record."""
    try:
        for defect in rule.check(subject):
            yield rule, defect
    except (MemoryError, KtoDataError):  # nothing that the rule is to blame for
        raise
    except Exception as error:  # whatever a rule may raise is that rule's fault, and told as such
        for defect in rule_crashed.check(Crash(rule.code, error)):
            yield rule_crashed, defect


def row_finding(rule: AnyRule, defect: Defect, row: Row) -> Finding:
    """The finding that `rule` makes of a defect of one row."""
    line, pointer = row.line, row.user_pointer(defect.pointer)
    location = Location(path=line.path, line=line.number, byte_offset=line.byte_offset, pointer=pointer)
    return as_finding(rule, defect, location, row)


def as_finding(rule: AnyRule, defect: Defect, location: Location, row: Row | None = None) -> Finding:
    """The finding that `rule` makes of `defect`."""
    return Finding(
        code=rule.code,
        severity=defect.severity or rule.severity,
        location=location,
        message=encodable(defect.message),
        record_id=row.record_id if row else None,
        row_hash=row.row_hash if row else None,
        fingerprint=_fingerprint(rule.code, location, row),
        quotes=tuple(map(encodable, defect.quotes)),
        data=tuple((name, encodable(value) if isinstance(value, str) else value) for name, value in defect.data),
    )


def dataset_findings(rule: AnyRule, subject: object, facts: DatasetFacts) -> Iterator[Finding]:
    """What a rule finds about all records together, or a training's configuration."""
    for found_by, defect in run_rule(rule, subject):
        path = defect.path or facts.first_path  # of a rule that crashed nothing better is known
        yield as_finding(found_by, defect, Location(path=path, line=defect.line, pointer=defect.pointer))


def _fingerprint(code: str, location: Location, row: Row | None) -> str:
    """32 hex digits that stay the same while rows are moved about, or written with other spaces or order of keys.

    A finding about the whole dataset goes by its file's name, since nothing else of it lasts.
    """
    subject = os.path.basename(location.path).encode(errors="replace") if row is None else _canonical(row.line.raw)
    return hashlib.blake2b(f"{code}\n{location.pointer}\n".encode() + subject, digest_size=16).hexdigest()


@lru_cache(maxsize=1)  # a line with one finding often has several
def _canonical(raw: bytes) -> bytes:
    if is_too_large(raw):
        return raw
    try:
        return orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONEncodeError, orjson.JSONDecodeError):
        return raw

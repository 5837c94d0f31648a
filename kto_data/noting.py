"""What the rules about all records together need to know of each line.

CheckedLine ─▶ ChunkFacts
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kto_data import near
from kto_data.check import CheckedLine
from kto_data.digest import SampleDigest, file_digest, message_text, record_digest
from kto_data.image import ProbeStatus
from kto_data.rules.chunk_facts import ChunkFacts, ImageFile, Shape

if TYPE_CHECKING:
    from kto_data.record import Record

_CODES_OF_FILES = frozenset({"KTO603", "KTO612"})
_CODES_OF_TEXTS = frozenset({"KTO602"})
CODES_OF_WHOLE_RECORDS = _CODES_OF_FILES | _CODES_OF_TEXTS
"""Rules about the dataset that need more of each record than numbers: for them each record is read whole."""


def note(checked: CheckedLine, facts: ChunkFacts, codes: frozenset[str] = frozenset()) -> None:
    """Add what the dataset rules need to know of a line to the facts of its chunk; `codes`: the selected rules."""
    note_shape(checked, facts)
    for sample in checked.samples:
        record = sample.record
        digest, length, shape = describe(record)
        facts.add_sample(digest, checked.line.number, length, shape)
        for found in sample.probes:
            if found.header is not None:
                facts.add_image(record.label, found.header.pixels)
        if not codes.isdisjoint(_CODES_OF_FILES):
            for found in sample.probes:
                # Without a header nobody has looked at the file: it may be none, or lie outside the root.
                is_seen = found.status is ProbeStatus.OK and found.header is not None
                content = file_digest(found.tried) if is_seen else None
                if content is not None:
                    place = (checked.line.number, checked.line.path)
                    facts.add_file(found.tried, ImageFile(content, found.given, *place))
        if not codes.isdisjoint(_CODES_OF_TEXTS) and near.is_available():
            prompt = "\x1f".join(map(message_text, record.prompt))  # ASCII unit separator
            facts.signatures.extend(near.signature(prompt, record.images, message_text(record.completion)))


def describe(record: Record) -> tuple[SampleDigest, int, Shape]:
    """What the dataset rules need to know of a record: its digest, the characters of its completion, its shape."""
    shape = Shape(record.label, len(record.messages), len(record.images), record.source or "")
    return record_digest(record), len(message_text(record.completion)), shape


def note_shape(checked: CheckedLine, facts: ChunkFacts) -> None:
    """Add what a line says of the whole input, its samples left out: its format, and images that are not mapped."""
    if checked.format:
        facts.add_format(checked.format, checked.line.number)
    if checked.unmapped_images:
        facts.add_unmapped(checked.line.number)

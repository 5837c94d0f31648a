"""A rejected row as it goes to the rejects file: where it stood, why it went, and its bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import orjson

from kto_data.chunk import Line
from kto_data.row import hash_row


def reject_entry(line: Line, codes: Iterable[str]) -> bytes:
    """One JSON object, without a line ending. `raw_base64` takes the place of `raw` where the bytes are no UTF-8."""
    entry: dict[str, object] = {
        "file": line.path,
        "line": line.number,
        "row_hash": hash_row(line.raw),
        "rules": sorted(set(codes)),
    }
    try:
        entry["raw"] = line.raw.decode()
    except UnicodeDecodeError:
        entry["raw_base64"] = base64.b64encode(line.raw).decode()
    return orjson.dumps(entry)

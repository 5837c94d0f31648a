"""Files to numbered lines: the first step of every command.

    path ─▶ Source ─▶ Chunk(s) ─▶ Line(s)

A chunk is a run of whole records of one file, small enough to be one unit of work and cheap to hand to another
process. Lines keep their physical number and byte offset to the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One record's bytes, as they stand in the file, without the line ending."""

    path: str  # as the user named it
    number: int  # physical line on which the record starts, 1-based; in parquet the row, 1-based
    byte_offset: int  # of the first byte in the (decompressed) file; in parquet 0
    raw: bytes

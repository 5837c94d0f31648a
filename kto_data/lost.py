"""What is said of rows that an engine lost: their workers died of them."""

from __future__ import annotations

from kto_data.chunk import Chunk
from kto_data.finding import Finding, Location
from kto_data.rules.facts import Lost
from kto_data.rules.run import rows_lost
from kto_data.ruling import as_finding

LOST_CODE = rows_lost.code


def lost_rows(chunk: Chunk, place: str = "") -> Finding:
    """The finding that the rows of a chunk are lost. `place`: what they were to become, such as a shard."""
    num_rows = chunk.num_rows if chunk.chosen is None else len(chunk.chosen)
    (defect,) = rows_lost.check(Lost(num_rows, place))
    return as_finding(rows_lost, defect, Location(path=chunk.path, line=chunk.first_line))

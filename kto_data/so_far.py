"""What a run has gathered so far, by split and by input file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from kto_data.chunk import Chunk, SourceKind
from kto_data.finding import Finding
from kto_data.inputs import Input
from kto_data.manifest import InputFile, Shard
from kto_data.packing import Packed
from kto_data.tally import Tally
from kto_data.unit import Built


class SplitSoFar:
    """What the units of one split have given so far."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.shards: list[Shard] = []
        self.rejects: list[bytes] = []
        self.packed: list[Packed] = []
        self._tallies: list[Tally] = []
        self._merged: Tally | None = None

    def add(self, built: Built) -> None:
        """Take in the next unit, in the order of the data."""
        self.keys.append(built.key)
        if built.shard is not None:
            self.shards.append(built.shard)
        self.rejects += built.rejects
        self.packed.append(built.packed)
        self._tallies.append(built.tally)

    def merged(self) -> Tally:
        """All counts of the split."""
        if self._merged is None:
            self._merged = Tally().merge(self._tallies)
            self._tallies = []
        return self._merged


class InputSoFar:
    """One input file, its rows counted and, where it can be read only once, its bytes hashed as they pass."""

    def __init__(self, split: str, file: Input) -> None:
        self.split = split
        self.file = file
        self.num_rows = 0
        self.num_units_drawn = 0
        self.num_units_done = 0
        self._bytes_drawn = 0
        self.findings: list[Finding] = []
        self._passing = hashlib.sha256()
        self._num_bytes = 0

    def chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        """The file's chunks, as `Source.chunks` gives them."""
        for chunk in self.file.source.chunks(rows_per_chunk):
            self._bytes_drawn = chunk.byte_stop
            if self.file.source.kind is SourceKind.STDIN:
                assert chunk.payload is not None
                self._passing.update(chunk.payload)
                self._num_bytes += len(chunk.payload)
            yield chunk

    def bytes_done(self) -> float:
        """About how many bytes of the file are done."""
        return self._bytes_drawn * self.num_units_done / self.num_units_drawn if self.num_units_drawn else 0.0

    def finish(self) -> InputFile:
        """The file as the manifest has it, once all its chunks are drawn."""
        source = self.file.source
        is_stdin = source.kind is SourceKind.STDIN
        sha256, num_bytes = (self._passing.hexdigest(), self._num_bytes) if is_stdin else source.digest()
        return InputFile(path=source.path, split=self.split, sha256=sha256, bytes=num_bytes, rows=self.num_rows)


_TELLING = (SourceKind.JSONL, SourceKind.JSON)
"""The kinds of files whose chunks say where they lie among the bytes on disk."""


def share_done(files: Sequence[InputSoFar]) -> float | None:
    """About how much of all files is done, 0 to 1; None where their kinds do not tell."""
    if not all(one.file.source.kind in _TELLING for one in files):
        return None
    total = sum(one.file.source.num_bytes or 0 for one in files)
    return min(1.0, sum(one.bytes_done() for one in files) / total) if total else None

"""What a run has gathered so far, by split and by input file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

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
        self.findings: list[Finding] = []
        self._passing = hashlib.sha256()
        self._num_bytes = 0

    def chunks(self, rows_per_chunk: int) -> Iterator[Chunk]:
        """The file's chunks, as `Source.chunks` gives them."""
        for chunk in self.file.source.chunks(rows_per_chunk):
            if self.file.source.kind is SourceKind.STDIN:
                assert chunk.payload is not None
                self._passing.update(chunk.payload)
                self._num_bytes += len(chunk.payload)
            yield chunk

    def finish(self) -> InputFile:
        """The file as the manifest has it, once all its chunks are drawn."""
        source = self.file.source
        is_stdin = source.kind is SourceKind.STDIN
        sha256, num_bytes = (self._passing.hexdigest(), self._num_bytes) if is_stdin else source.digest()
        return InputFile(path=source.path, split=self.split, sha256=sha256, bytes=num_bytes, rows=self.num_rows)

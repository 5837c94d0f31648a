"""What a run has gathered so far: as a whole, by split and by input file."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from kto_data.check import CheckSettings, check_dataset
from kto_data.chunk import Chunk, SourceKind
from kto_data.column import Column
from kto_data.finding import Finding, Severity
from kto_data.inputs import Input, num_bytes
from kto_data.lost import LOST_CODE
from kto_data.manifest import InputFile, Shard
from kto_data.packing import AllPacked
from kto_data.rules.facts import DatasetFacts
from kto_data.run_record import RunRecord
from kto_data.tally import IMAGE_KEY_DTYPE, ROW_DTYPE, Tally
from kto_data.unit import Built
from kto_data.writing import writing_to

MAX_FINDINGS = 1000
"""Findings of a rule that are kept whole. All are counted: a file may have as many as it has lines."""


class FindingsSoFar:
    """The findings so far: each is counted, and the first of each rule are kept."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.counts: Counter[tuple[str, Severity]] = Counter()
        self._num_kept: Counter[str] = Counter()

    def add(self, findings: Iterable[Finding]) -> None:
        """Take in the next findings."""
        for finding in findings:
            self.counts[finding.code, finding.severity] += 1
            self._keep(finding)

    def extend(self, other: FindingsSoFar) -> None:
        """Take in those of a whole file, in the order of its lines."""
        self.counts += other.counts
        for finding in sorted(other.kept, key=lambda finding: finding.location.line or 0):
            self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        if self._num_kept[finding.code] < MAX_FINDINGS:
            self._num_kept[finding.code] += 1
            self.kept.append(finding)

    @property
    def codes(self) -> set[str]:
        """The rules that found something."""
        return {code for code, _ in self.counts}

    @property
    def num_errors(self) -> int:
        """How many are errors."""
        return sum(count for (_, severity), count in self.counts.items() if severity is Severity.ERROR)

    @property
    def counts_by_code(self) -> Counter[str]:
        """How many there are of each rule."""
        found: Counter[str] = Counter()
        for (code, _), count in self.counts.items():
            found[code] += count
        return found


class SplitSoFar:
    """What the units of one split have given so far. Rejected lines are kept on disk, in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self.keys: list[str] = []
        self.shards: list[Shard] = []
        self.num_rejects = 0
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._rejects: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - held until the run ends
        self._folder = folder
        self._tally = Tally()  # without its columns, which grow with the rows:
        self._rows, self._image_keys = Column("B"), Column("B")

    def add(self, built: Built) -> None:
        """Take in the next unit, in the order of the data."""
        self.keys.append(built.key)
        if built.shard is not None:
            self.shards.append(built.shard)
        self.num_rejects += len(built.rejects)
        with writing_to(self._folder):
            self._rejects.writelines(line + b"\n" for line in built.rejects)
        self._tally.add_counts(built.tally)
        self._rows.extend(built.tally.rows.tobytes())
        self._image_keys.extend(built.tally.image_keys.tobytes())

    def copy_rejects(self, file: BinaryIO) -> None:
        """Write all rejected lines to `file`, in the order of the data."""
        with writing_to(self._folder):
            self._rejects.seek(0)
            shutil.copyfileobj(self._rejects, file)

    def merged(self) -> Tally:
        """All counts of the split, once there are no more to come."""
        self._tally.rows = np.frombuffer(self._rows.view, ROW_DTYPE)
        self._tally.image_keys = np.frombuffer(self._image_keys.view, IMAGE_KEY_DTYPE)
        return self._tally


class InputSoFar:
    """One input file, its rows counted and, where it can be read only once, its bytes hashed as they pass."""

    def __init__(self, split: str, file: Input) -> None:
        self.split = split
        self.file = file
        self.size = num_bytes([file])  # bytes; None where its kind does not tell
        self.num_rows = 0
        self.num_units_drawn = 0
        self.num_units_done = 0
        self._bytes_drawn = 0
        self.findings = FindingsSoFar()
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


def share_done(files: Sequence[InputSoFar]) -> float | None:
    """About how much of all files is done, 0 to 1; None where their kinds do not tell."""
    total = 0
    for one in files:
        if one.size is None:
            return None
        total += one.size
    return min(1.0, sum(one.bytes_done() for one in files) / total) if total else None


class RunSoFar:
    """All that the units of a run have given so far."""

    def __init__(
        self, inputs: Mapping[str, Sequence[Input]], split_names: Iterable[str], folder: Path, *, jobs: int
    ) -> None:
        """`inputs`: split -> files. `folder`: where rejected lines are kept meanwhile."""
        self.record = RunRecord(jobs=jobs)
        self.splits = {name: SplitSoFar(folder) for name in split_names}
        self.files = [InputSoFar(name, file) for name, files in inputs.items() for file in files]
        self.packed = AllPacked()
        self.findings = FindingsSoFar()
        """Those of the run as a whole; after `conclude_findings` all there are."""
        self.num_dropped = 0
        self.num_lost = 0
        """Units that an engine has lost."""
        self.put_elsewhere: dict[str, str] = {}
        """Path of a shard in the cache -> URL of the object that holds it, where it is not in a unit's folder."""
        self._facts = DatasetFacts()

    @property
    def num_built(self) -> int:
        """Units that are done."""
        return self.record.num_units - self.num_lost

    def add(self, file: InputSoFar, split: str, built: Built) -> None:
        """Take in the next unit, in the order of the data: part of a chunk of `file`, whose rows go to `split`."""
        num_rows = sum(built.tally.read.values())
        file.num_rows += num_rows
        file.num_units_done += 1
        file.findings.add(built.findings)
        self.splits[split].add(built)
        self.packed.add(built.packed)
        if built.shard is not None and built.at:
            self.put_elsewhere[f"{split}/{built.shard.path}"] = built.at
        self._facts.extend(built.facts)
        self.record.add(built, num_rows)
        self.num_dropped += sum(built.tally.dropped.values())
        self.num_lost += any(finding.code == LOST_CODE for finding in built.findings)

    def conclude_findings(self, codes: frozenset[str]) -> None:
        """Gather the findings of all files in the order of their lines, then those of the rules `codes` about the
        input as a whole."""
        for file in self.files:  # of whose chunks the parts come one after the other
            self.findings.extend(file.findings)
        self.findings.add(check_dataset(self._facts, CheckSettings(codes=codes)))

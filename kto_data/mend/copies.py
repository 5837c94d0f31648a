"""A file that is being mended: what it was, what it is now, and the next copy of it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from kto_data.chunk import SourceKind
from kto_data.inputs import Input
from kto_data.writing import writing_to


@dataclass(slots=True)
class MendedFile:
    """One input file, and what has become of it so far."""

    original: Input  # its lines can be read any number of times
    now: Input  # reads the rows as they are now, under the name of the original
    lines: array[int]  # for each line of `now`, the line of the original that it was
    rejected: dict[int, tuple[str, ...]] = field(default_factory=dict)  # line of the original -> why it went

    @property
    def is_changed(self) -> bool:
        """Whether anything was done to it."""
        return self.now is not self.original

    def reject(self, number: int, codes: Iterable[str]) -> None:
        """Note that the line `number` of `now` goes."""
        self.rejected[self.origin(number)] = tuple(sorted(codes))

    def origin(self, number: int) -> int:
        """The line of the original that the line `number` of `now` was."""
        return self.lines[number - 1] if self.is_changed else number


class NewCopy:
    """A new copy of a file, line by line; it takes the place of the last one if it is wanted."""

    def __init__(self, file: MendedFile, path: Path) -> None:
        self.is_wanted = False
        self._file = file
        self._path = path
        self._lines = array("Q")

    def __enter__(self) -> NewCopy:
        with writing_to(self._path):
            self._copy = open(self._path, "wb")
        return self

    def write(self, number: int, whole: bytes) -> None:
        """Add what the line `number` has become."""
        with writing_to(self._path):
            self._copy.write(whole)
        self._lines.append(self._file.origin(number))

    def __exit__(self, *error: object) -> None:
        with writing_to(self._path):
            self._copy.close()
        file = self._file
        if not self.is_wanted:
            self._path.unlink()
            return
        if file.is_changed:
            os.unlink(file.now.source.local)
        source = replace(file.now.source, kind=SourceKind.JSONL, local=str(self._path))
        file.now, file.lines = replace(file.now, source=source), self._lines

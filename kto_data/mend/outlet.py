"""Where mended files and rejected rows go: checked before anything is done, written whole when all is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kto_data import storage
from kto_data.chunk import Line, SourceKind
from kto_data.compression import compressing
from kto_data.errors import UsageError
from kto_data.inputs import Input
from kto_data.mend.copies import MendedFile
from kto_data.mend.lines import is_row, raw_lines, without_end
from kto_data.mend.rounds import Mending
from kto_data.opening import kind_of
from kto_data.rejects import reject_entry
from kto_data.source import STDIN
from kto_data.writing import whole_file

_LINES = (SourceKind.JSONL, SourceKind.JSONL_GZ, SourceKind.JSONL_ZST)


@dataclass(frozen=True, slots=True)
class Outlet:
    """The file of each input, in their order, and the one of rejected rows. A path of `-` is standard output."""

    paths: tuple[Path, ...]
    rejects: Path | None
    in_place: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """Where the rows have gone. A blank line is no row."""

    read: int
    kept: int
    rejected: int
    blank: int  # blank lines that are there no more


def make_outlet(inputs: Sequence[Input], *, out: Path | None, in_place: bool, rejects: Path | None) -> Outlet:
    """The outlet that the options ask for. Raises `UsageError` where they do not go together, or a file would be
    overwritten that is to stay."""
    if (out is None) == (not in_place):
        raise UsageError(
            "--fix needs one place to write to" if out is None else "--out and --in-place cannot be given together",
            hint="--out FILE leaves the input as it is; --in-place replaces it",
        )
    if in_place:
        paths = tuple(_own_path(entry) for entry in inputs)
    else:
        assert out is not None
        paths = _outside(inputs, out)
    taken = [Path(entry.source.path) for entry in inputs if entry.source.path != STDIN]
    for path in paths if not in_place else ():
        if any(_is_same(path, other) for other in taken):
            raise UsageError(f"--out {path} is the input itself", hint="to replace it, give --in-place instead")
        if str(path) != STDIN and path.exists() and not path.is_file():
            raise UsageError(
                f"--out {path} is not a regular file, and what was mended is read from there",
                hint="--out FILE, or --out - for standard output",
            )
    if rejects is not None:
        _check_rejects(rejects)
    if rejects is not None and any(_is_same(rejects, other) for other in (*taken, *paths)):
        raise UsageError(f"--rejects {rejects} is one of the data files", hint="give rejected rows a file of their own")
    return Outlet(paths, rejects, in_place)


def write(mending: Mending, outlet: Outlet) -> RowCounts:
    """Write the rejected rows, then the mended files, each whole or not at all. A file that is to be replaced by one
    just like it is left alone. Raises `InputError` where one cannot be written."""
    counts = count_rows(mending)
    if outlet.rejects is not None:
        with whole_file(outlet.rejects) as file, compressing(outlet.rejects.name, file) as packed:
            for mended in mending.files:
                _write_rejects(mended, packed)
    for mended, path in zip(mending.files, outlet.paths, strict=True):
        if str(path) == STDIN:
            sys.stdout.flush()
            sys.stdout.buffer.writelines(raw_lines(mended.now.source))
            sys.stdout.buffer.flush()
        elif mended.is_changed or not outlet.in_place:
            with whole_file(path) as file, compressing(path.name, file) as packed:
                packed.writelines(raw_lines(mended.now.source))
    return counts


def count_rows(mending: Mending) -> RowCounts:
    """Where the rows went; that none is lost is asserted."""
    read = kept = rejected = blank = 0
    for file in mending.files:
        num_rows, num_blank = _count(file.original)
        num_kept, num_blank_kept = _count(file.now) if file.is_changed else (num_rows, num_blank)
        assert num_kept + len(file.rejected) == num_rows, f"rows of {file.original.source.path} are lost"
        read, kept, rejected = read + num_rows, kept + num_kept, rejected + len(file.rejected)
        blank += num_blank - num_blank_kept
    return RowCounts(read=read, kept=kept, rejected=rejected, blank=blank)


def _count(entry: Input) -> tuple[int, int]:
    """Rows, and blank lines."""
    num_lines = num_rows = 0
    for line in raw_lines(entry.source):
        num_lines += 1
        num_rows += is_row(line)
    return num_rows, num_lines - num_rows


def _write_rejects(file: MendedFile, output: BinaryIO) -> None:
    """Add the rows that went, as they stood in the input."""
    if not file.rejected:
        return
    path = file.original.source.path
    for number, line in enumerate(raw_lines(file.original.source), start=1):
        if number in file.rejected:
            raw = without_end(line)
            output.write(reject_entry(Line(path, number, 0, raw), file.rejected[number]) + b"\n")


def _check_rejects(path: Path) -> None:
    """Before rows are mended for minutes: that they can be put there."""
    if str(path) == STDIN:
        raise UsageError("--rejects - is no file", hint="rejected rows go to a file of their own")
    if not path.parent.is_dir():
        raise UsageError(
            f"--rejects {path}: there is no folder {path.parent}", hint="make it first, or correct the name"
        )


def _own_path(entry: Input) -> Path:
    path = entry.source.path
    if entry.source.kind in (SourceKind.JSONL_GZ, SourceKind.JSONL_ZST):
        raise UsageError(
            f"{path} is compressed: --in-place keeps the bytes of rows, which packed anew they would not",
            hint="give --out FILE",
        )
    if path == STDIN or storage.is_url(path):
        raise UsageError(
            f"{'standard input' if path == STDIN else path} cannot be replaced in place", hint="give --out FILE"
        )
    return Path(os.path.realpath(path))  # the file itself, and not a link to it


def _outside(inputs: Sequence[Input], out: Path) -> tuple[Path, ...]:
    """`out` itself, or where it is a folder, a file in it for each input."""
    if str(out) == STDIN and len(inputs) == 1:
        return (out,)
    if len(inputs) == 1 and not out.is_dir():
        if kind_of(str(out)) not in _LINES:
            raise UsageError(
                f"--out {out} is no file of JSON lines",
                hint=f"end its name with {' or '.join(f'.{k}' for k in _LINES)}",
            )
        return (out,)
    if not out.is_dir():
        raise UsageError(
            f"{len(inputs)} files cannot all be written to {out}", hint="give --out a folder that exists, or --in-place"
        )
    names = ["stdin.jsonl" if e.source.path == STDIN else os.path.basename(e.source.path) for e in inputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two of the files are called {twice}", hint="mend them one by one, or --in-place")
    return tuple(out / name for name in names)


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other) and str(one) != STDIN

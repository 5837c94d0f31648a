"""Mending in rounds: what validation finds is mended in a copy, and the copy is validated again.

A mended row may show a defect that nobody could see before (an image that is not there, a second copy of a row), so the
rounds go on until one finds nothing to do. The last of them has seen the rows as they will be written.

In a round, rows are mended before any row goes, and rows go one by one before any goes as a duplicate or is moved:
which row is the first of its kind is known only when all of them are as they will be.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash

from kto_data import storage
from kto_data.check import CheckSettings
from kto_data.chunk import Line, SourceKind
from kto_data.errors import InputError, UsageError
from kto_data.finding import Finding, Severity
from kto_data.image import ImageCheck
from kto_data.inputs import Input
from kto_data.mend.copies import MendedFile, NewCopy
from kto_data.mend.edits import EDITS, Subject, Wish
from kto_data.mend.lines import raw_lines, without_end
from kto_data.mend.splice import apply
from kto_data.read import read_rows
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Fix
from kto_data.source import STDIN
from kto_data.triage import Triage
from kto_data.validate import validate
from kto_data.writing import writing_to

BLANK_LINE, FINAL_NEWLINE, CRLF, DUPLICATE, LABEL_RUNS = "KTO103", "KTO113", "KTO115", "KTO601", "KTO405"

_FIX = {rule.code: rule.fix for rule in ALL_RULES}
_ONE_JSON_VALUE = (SourceKind.JSON, SourceKind.JSON_GZ, SourceKind.JSON_ZST)
_MOST_ROUNDS = 12  # each round mends what the one before brought to light; nothing known takes more than five


@dataclass(frozen=True, slots=True, kw_only=True)
class MendSettings:
    """What may be done."""

    check: CheckSettings
    unsafe: bool = False  # also what changes what a row says
    reject: bool = False  # rows may go
    make_triage: Callable[[], Triage] = Triage  # what is hidden is not mended; a new one each round, as it counts
    jobs: int = 1

    def mends(self, code: str) -> bool:
        """Whether findings of a rule may be mended."""
        fix = _FIX[code]
        return fix is Fix.SAFE or (self.unsafe and fix is Fix.UNSAFE)


@dataclass(slots=True)
class Mending:
    """What a mending did. The files are as they will be written."""

    files: list[MendedFile]
    mended: Counter[str] = field(default_factory=Counter)  # by code, the findings that are no more
    left: Counter[Fix] = field(default_factory=Counter)  # findings that could be mended, if that was allowed
    has_images: bool = False


def mend(inputs: Sequence[Input], settings: MendSettings, folder: Path) -> Mending:
    """Mend copies of the inputs in `folder`, which must be empty.

    Raises `UsageError` where the rows of a file do not lie line by line, `InputError` as `validate` does and when the
    disk is full.
    """
    for entry in inputs:
        if entry.source.kind is SourceKind.PARQUET or entry.source.kind in _ONE_JSON_VALUE:
            raise UsageError(
                f"{entry.source.path} is no file of JSON lines, and cannot be mended row by row",
                hint=f"first: ktodata convert {entry.source.path} --output FILE.jsonl --keep-errors",
            )
    files = []
    for index, entry in enumerate(inputs):
        entry = _kept(entry, folder / f"{index}.input.jsonl")
        files.append(MendedFile(entry, entry, array("Q")))
    mending = Mending(files)
    is_shuffled = False
    for number in range(_MOST_ROUNDS):
        wishes = _find(files, settings)
        mending.left, mending.has_images = wishes.left, wishes.has_images
        done = _mend_rows(files, wishes, settings, folder, number)
        if not done and settings.reject:
            done = _drop_duplicates(files, wishes, folder, number)
        if not done and wishes.sorted_splits and not is_shuffled:
            done = Counter({LABEL_RUNS: len(wishes.sorted_splits)})
            is_shuffled = True
            for index, file in enumerate(files):
                if file.now.split in wishes.sorted_splits:
                    _shuffle(file, folder / f"{index}.{number}.jsonl")
        if not done:
            break
        mending.mended.update(done)
        for file in files:
            if not file.now.source.num_bytes:
                raise InputError(
                    f"no row of {file.original.source.path} would be left: each has errors, or is a duplicate",
                    hint=f"look at them: ktodata validate {file.original.source.path}",
                )
    return mending


@dataclass(slots=True)
class _Wishes:
    """What a validation found that can be mended: by file and line, and in a file as a whole."""

    by_line: dict[str, dict[int, list[Wish]]] = field(default_factory=dict)
    in_file: dict[str, set[str]] = field(default_factory=dict)
    sorted_splits: set[str] = field(default_factory=set)  # splits whose rows are to be shuffled
    left: Counter[Fix] = field(default_factory=Counter)
    has_images: bool = False


def _find(files: Sequence[MendedFile], settings: MendSettings) -> _Wishes:
    wishes = _Wishes()

    splits = {file.now.source.path: file.now.split for file in files}

    def listen(findings: Sequence[Finding]) -> None:
        for finding in findings:
            _sort_in(finding, wishes, settings, splits)

    validation = validate(
        [file.now for file in files],
        settings.check,
        triage=settings.make_triage(),
        jobs=settings.jobs,
        listen=listen,
    )
    wishes.has_images = any(entry.value for split in validation.survey.splits for entry in split.images)
    return wishes


def _sort_in(finding: Finding, wishes: _Wishes, settings: MendSettings, splits: dict[str, str]) -> None:
    code, place = finding.code, finding.location
    fix = _FIX.get(code, Fix.NONE)
    goes = fix is Fix.REJECT or code == DUPLICATE
    if fix is Fix.NONE or (fix is Fix.REJECT and finding.severity is not Severity.ERROR):
        return  # nobody but the user can mend it, or the user lives with it
    if not (settings.reject if goes else settings.mends(code)):
        wishes.left[Fix.REJECT if goes else fix] += 1
    elif code == LABEL_RUNS:
        wishes.sorted_splits.add(splits[place.path])
    elif code in (FINAL_NEWLINE, CRLF):
        wishes.in_file.setdefault(place.path, set()).add(code)
    elif place.line is not None:
        token = str(dict(finding.data).get("token", ""))
        wishes.by_line.setdefault(place.path, {}).setdefault(place.line, []).append(Wish(code, place.pointer, token))


def _mend_rows(
    files: Sequence[MendedFile], wishes: _Wishes, settings: MendSettings, folder: Path, number: int
) -> Counter[str]:
    """Mend rows and line ends; a row in which nothing can be mended goes, if it must and may."""
    done: Counter[str] = Counter()
    for index, file in enumerate(files):
        by_line = wishes.by_line.get(file.now.source.path, {})
        in_file = wishes.in_file.get(file.now.source.path, set())
        if not in_file and all(wish.code == DUPLICATE for line in by_line.values() for wish in line):
            continue
        mender = _Mender(file, by_line, in_file, _image_root(file.now, settings.check))
        with NewCopy(file, folder / f"{index}.{number}.jsonl") as new_copy:
            for line, ending in mender.lines():
                new_copy.write(line.number, line.raw + ending)
            new_copy.is_wanted = bool(mender.done)
        done.update(mender.done)
    return done


class _Mender:
    """Mends the lines of one file, and counts what is done."""

    def __init__(
        self, file: MendedFile, by_line: dict[int, list[Wish]], in_file: set[str], image_root: Path | None
    ) -> None:
        self.done: Counter[str] = Counter(dict.fromkeys(in_file, 1))
        self._file = file
        self._by_line = by_line
        self._in_file = in_file
        self._image_root = image_root

    def lines(self) -> Iterator[tuple[Line, bytes]]:
        """The lines that stay, with their ends."""
        source = self._file.now.source
        for number, whole in enumerate(raw_lines(source), start=1):
            line = Line(source.path, number, 0, without_end(whole))
            ending = whole[len(line.raw) :]
            if (CRLF in self._in_file and ending) or (FINAL_NEWLINE in self._in_file and not ending):
                ending = b"\n"
            wishes = [wish for wish in self._by_line.get(number, ()) if wish.code != DUPLICATE]
            mended = self._mended(line, wishes) if wishes else line
            if mended is not None:
                yield mended, ending

    def _mended(self, line: Line, wishes: list[Wish]) -> Line | None:
        if any(wish.code == BLANK_LINE for wish in wishes):
            self.done[BLANK_LINE] += 1
            return None
        subject = Subject(line, self._file.now.layout, self._image_root)
        splices = {wish: tuple(EDITS[wish.code](subject, wish)) for wish in dict.fromkeys(wishes) if wish.code in EDITS}
        raw = apply(line.raw, (splice for made in splices.values() for splice in made))
        if raw != line.raw:
            self.done.update(wish.code for wish, made in splices.items() if made)
            return line._replace(raw=raw)
        reasons = {wish.code for wish in wishes if _FIX[wish.code] is Fix.REJECT}
        if not reasons:
            return line
        self._file.reject(line.number, reasons)
        self.done.update(reasons)
        return None


def _drop_duplicates(files: Sequence[MendedFile], wishes: _Wishes, folder: Path, number: int) -> Counter[str]:
    """Drop the rows of which every sample is there already: of a pair, one side may be new."""
    done: Counter[str] = Counter()
    for index, file in enumerate(files):
        by_line = wishes.by_line.get(file.now.source.path, {})
        repeats = {n: count for n, line in by_line.items() if (count := sum(w.code == DUPLICATE for w in line))}
        if not repeats:
            continue
        before = done.total()
        with NewCopy(file, folder / f"{index}.{number}.jsonl") as new_copy:
            for line_number, whole in enumerate(raw_lines(file.now.source), start=1):
                count = repeats.get(line_number, 0)
                line = Line(file.now.source.path, line_number, 0, without_end(whole))
                if count and count >= len(read_rows(line, file.now.layout)):
                    file.reject(line_number, (DUPLICATE,))
                    done[DUPLICATE] += count
                else:
                    new_copy.write(line_number, whole)
            new_copy.is_wanted = done.total() > before
    return done


def _shuffle(file: MendedFile, path: Path) -> None:
    """Put the rows in the order of a hash of their bytes: as good as random, and the same however they stood before."""
    hashes, starts = array("Q"), array("Q", [0])
    plain = path.with_suffix(".plain")
    with writing_to(plain), open(plain, "wb") as copy:
        for whole in raw_lines(file.now.source):
            copy.write(whole)
            hashes.append(xxhash.xxh3_64_intdigest(without_end(whole)))
            starts.append(starts[-1] + len(whole))
    with NewCopy(file, path) as new_copy, open(plain, "rb") as copy:
        for index in sorted(range(len(hashes)), key=hashes.__getitem__):
            copy.seek(starts[index])
            whole = copy.read(starts[index + 1] - starts[index])
            new_copy.write(index + 1, whole if whole.endswith(b"\n") else whole + b"\n")
        new_copy.is_wanted = True
    plain.unlink()


def _kept(entry: Input, path: Path) -> Input:
    """The input, or a copy of it where it can be read only once."""
    if entry.source.path != STDIN:
        return entry
    with writing_to(path), open(path, "wb") as copy:
        copy.writelines(raw_lines(entry.source))
    return replace(entry, source=replace(entry.source, kind=SourceKind.JSONL, local=str(path)))


def _image_root(entry: Input, check: CheckSettings) -> Path | None:
    """The folder that image paths start from, where it is one of this machine and may be looked into."""
    root = str(check.image_root) if check.image_root is not None else os.path.dirname(entry.source.path)
    return None if check.images is ImageCheck.OFF or storage.is_url(root) else Path(root)

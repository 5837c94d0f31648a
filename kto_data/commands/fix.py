"""`ktodata validate --fix`: the input mended, before what remains is validated as any input is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kto_data.commands.places import Place, refuse_shared
from kto_data.errors import UsageError
from kto_data.scratch import ScratchFolder

if TYPE_CHECKING:
    from kto_data.check import CheckSettings
    from kto_data.inputs import Input
    from kto_data.mend.outlet import Outlet, RowCounts
    from kto_data.mend.rounds import Mending
    from kto_data.triage import Triage

Say = Callable[[str], None]
_STDOUT = Path("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOptions:
    """What the user asked for. `is_wanted`: anything at all."""

    fix: bool = False
    diff: bool = False
    unsafe: bool = False
    out: Path | None = None
    in_place: bool = False
    rejects: Path | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether rows are to be mended, or it is to be shown how. Raises `UsageError` for options that ask for
        neither, and yet need it."""
        if self.fix or self.diff:
            return True
        for name, given in (("--out", self.out), ("--in-place", self.in_place), ("--rejects", self.rejects)):
            if given:
                raise UsageError(f"{name} is given without --fix", hint=f"ktodata validate --fix {name} …")
        return False

    @property
    def to_stdout(self) -> bool:
        """Whether standard output is for rows, so that findings go elsewhere."""
        return self.out == _STDOUT and not self.diff


@dataclass(frozen=True, slots=True)
class Fixed:
    """What there is to validate now, and how."""

    inputs: tuple[Input, ...]
    check: CheckSettings


@contextmanager
def fixing(
    inputs: Sequence[Input],
    check: CheckSettings,
    options: FixOptions,
    reports: Sequence[Place],
    *,
    make_triage: Callable[[], Triage],
    jobs: int,
    say: Say,
) -> Iterator[Fixed]:
    """The mended input, written where the options say; its files are there as long as the block runs."""
    from kto_data.mend.outlet import make_outlet, write
    from kto_data.mend.rounds import MendSettings, mend

    settings = MendSettings(
        check=check, unsafe=options.unsafe, reject=options.rejects is not None, make_triage=make_triage, jobs=jobs
    )
    outlet = make_outlet(inputs, out=options.out, in_place=options.in_place, rejects=options.rejects)
    outputs = () if options.in_place else tuple(("--out", path) for path in outlet.paths)
    refuse_shared(inputs, (*outputs, ("--rejects", options.rejects), *reports))
    with _work_folder(outlet) as folder:
        mending = mend(inputs, settings, folder)
        check = replace(check, image_root=_image_root(inputs, check, outlet, mending, say))
        counts = write(mending, outlet)
        for line in _account(mending, counts, outlet):
            say(line)
        yield Fixed(_outputs(mending, outlet), check)


def show_diff(
    inputs: Sequence[Input],
    check: CheckSettings,
    options: FixOptions,
    *,
    make_triage: Callable[[], Triage],
    jobs: int,
    say: Say,
) -> bool:
    """Print what would be done to each file; whether that is anything."""
    from kto_data.mend.lines import unified_diff
    from kto_data.mend.rounds import MendSettings, mend

    settings = MendSettings(
        check=check, unsafe=options.unsafe, reject=options.rejects is not None, make_triage=make_triage, jobs=jobs
    )
    with ScratchFolder() as folder:
        mending = mend(inputs, settings, Path(folder))
        changed = [file for file in mending.files if file.is_changed]
        sys.stdout.flush()
        for file in changed:
            sys.stdout.buffer.writelines(unified_diff(file.original.source, file.now.source, file.lines))
        sys.stdout.buffer.flush()
    gone = sum(len(file.rejected) for file in mending.files)
    rejected = f", and {gone:,} {'row' if gone == 1 else 'rows'} would go" if gone else ""
    say(f"{_findings(mending)} would be mended{rejected}; nothing is written")
    return bool(changed)


@contextmanager
def _work_folder(outlet: Outlet) -> Iterator[Path]:
    """A folder on the disk that the files will be on."""
    from kto_data.writing import writing_to

    parent = None if outlet.paths[0] == _STDOUT else outlet.paths[0].parent
    with writing_to(outlet.paths[0]):
        folder = TemporaryDirectory(prefix=".ktodata-", dir=parent)
    with folder as name:
        yield Path(name)


def _image_root(
    inputs: Sequence[Input], check: CheckSettings, outlet: Outlet, mending: Mending, say: Say
) -> str | Path | None:
    """Where image paths go on to start from: where they did, though the rows may now lie in another folder."""
    from kto_data.inputs import common_folder

    if check.image_root is not None or outlet.in_place or not mending.has_images:
        return check.image_root
    folder = common_folder(inputs)
    if any(path != _STDOUT and os.path.realpath(path.parent) != folder for path in outlet.paths):
        say(f"image paths still start from {folder}: give it as --image-root to what reads {outlet.paths[0]}")
    return folder


def _outputs(mending: Mending, outlet: Outlet) -> tuple[Input, ...]:
    from kto_data.opening import open_source

    return tuple(
        file.now if path == _STDOUT else replace(file.original, source=open_source(_named(path, file.original, outlet)))
        for file, path in zip(mending.files, outlet.paths, strict=True)
    )


def _named(path: Path, original: Input, outlet: Outlet) -> str:
    """A file that was replaced goes by the name it had."""
    return original.source.path if outlet.in_place else str(path)


def _account(mending: Mending, counts: RowCounts, outlet: Outlet) -> Iterator[str]:
    """What was done, where the rows are, and what more could be done."""
    from kto_data.rules.base import Fix

    yield f"mended {_findings(mending)}"
    blank = f", and {counts.blank:,} blank {'line' if counts.blank == 1 else 'lines'} gone" if counts.blank else ""
    rejects = f" (in {outlet.rejects})" if outlet.rejects is not None else ""
    yield f"{counts.kept:,} rows kept + {counts.rejected:,} rejected{rejects} = {counts.read:,} read{blank}"
    unsafe, goes = mending.left[Fix.UNSAFE], mending.left[Fix.REJECT]
    if unsafe:
        yield f"{unsafe:,} more can be mended with --unsafe-fixes, which change what rows say"
    if goes:
        yield f"{goes:,} more would be gone if their rows went: --rejects FILE keeps them there"


def _findings(mending: Mending) -> str:
    number = mending.mended.total()
    by_rule = ", ".join(f"{code} {count:,}" for code, count in sorted(mending.mended.items()))
    return f"{number:,} {'finding' if number == 1 else 'findings'}{f' ({by_rule})' if by_rule else ''}"

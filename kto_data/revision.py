"""The input files as they were in a git revision, and what was to be found in them.

files, revision ─▶ the same files in a temporary folder ─▶ validate ─▶ Baseline
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kto_data.baseline import Baseline
from kto_data.check import CheckSettings
from kto_data.errors import InputError, UsageError
from kto_data.inputs import Input
from kto_data.opening import open_source
from kto_data.scratch import ScratchFolder
from kto_data.source import STDIN
from kto_data.triage import Triage
from kto_data.validate import validate


def findings_at(revision: str, inputs: Sequence[Input], settings: CheckSettings, *, jobs: int = 1) -> Baseline:
    """What the inputs' versions of a revision held. Files that it does not have held nothing.

    Images are looked at as they are now and where they are now: of a row that has not changed, nothing is new. Raises
    `UsageError` where the files are in no git repository or it has no such revision.
    """
    found = Baseline()
    with ScratchFolder() as folder:
        then = list(_versions(revision, inputs, Path(folder)))
        if not then:
            return found
        homes = tuple((old.source.path, os.path.dirname(os.path.abspath(now.source.path))) for now, old in then)
        try:
            validate(
                [old for _, old in then], replace(settings, homes=homes), triage=Triage(record=found.add), jobs=jobs
            )
        except InputError as error:
            raise InputError(
                f"--new-from {revision}: the version of then cannot be checked: {error.what}",
                hint="name a revision whose files can be read, or use --baseline",
            ) from None
    return found


def _versions(revision: str, inputs: Sequence[Input], folder: Path) -> Iterator[tuple[Input, Input]]:
    """Each input that has rows in the revision, and its version of then."""
    for entry in inputs:
        path = entry.source.path
        if path == STDIN or "://" in path:
            raise UsageError(f"--new-from: {path} is no file of a git repository", hint="name files, or use --baseline")
        home = os.path.dirname(os.path.realpath(path))
        top = _git(home, "rev-parse", "--show-toplevel").decode().removesuffix("\n")
        _git(home, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", revision=revision)
        relative = os.path.relpath(os.path.realpath(path), top)
        old = folder / top.lstrip("/") / relative
        if _is_in(home, revision, relative):
            old.parent.mkdir(parents=True, exist_ok=True)
            # With filters: what git has stored may be a pointer to a large file kept elsewhere.
            old.write_bytes(_git(home, "cat-file", "--filters", f"{revision}:{Path(relative).as_posix()}"))
            if old.read_bytes().strip():
                yield entry, replace(entry, source=open_source(str(old)))


def _is_in(home: str, revision: str, relative: str) -> bool:
    name = f"{revision}:{Path(relative).as_posix()}"
    return _run(home, "cat-file", "-e", name).returncode == 0


def _git(home: str, *arguments: str, revision: str | None = None) -> bytes:
    done = _run(home, *arguments)
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ").partition("\n")[0]
    if revision is not None:
        raise UsageError(
            f"--new-from: the repository of {home} has no revision {revision}",
            hint="fetch it first; a shallow clone lacks all but the last (actions/checkout: fetch-depth: 0)",
        )
    raise UsageError(f"--new-from: git said of {home}: {said}", hint="--baseline needs no repository")


def _run(home: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", home, *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("--new-from needs git, which is not installed", hint="--baseline needs none") from None

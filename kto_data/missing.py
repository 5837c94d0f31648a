"""What is said of a file that is not there."""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from pathlib import Path

from kto_data.errors import InputError, KtoDataError


def missing_file(path: str, error: type[KtoDataError] = InputError) -> KtoDataError:
    """The error for a file that is not at `path`, with the one of the same folder that was probably meant."""
    if os.path.islink(path):
        return error(f"{path} is a link to a file that does not exist", hint="mend the link, or remove it")
    near = []
    with suppress(OSError, ValueError):  # ValueError: a NUL character
        name, names = Path(path).name, os.listdir(Path(path).parent)
        near = [other for other in names if other.lower() == name.lower()]
        near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.75)  # the suffix is alike as a rule
    return error(
        f"{path} does not exist", hint=f"did you mean {Path(path).with_name(near[0])}?" if near else "check the path"
    )

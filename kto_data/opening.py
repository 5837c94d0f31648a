"""What the user named, opened: looked at before anything is read from it.

path ─▶ Source
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from kto_data import storage
from kto_data.chunk import SourceKind, reading, unreadable
from kto_data.errors import InputError
from kto_data.local_copy import LocalCopy, local_copy
from kto_data.missing import missing_file
from kto_data.safe_text import encodable
from kto_data.source import STDIN, Source, no_rows

SUFFIXES = {f".{kind}": kind for kind in SourceKind if kind is not SourceKind.STDIN}
"""What file names end with, and the kind each speaks of."""
_OTHERWISE = {
    b"\x1f\x8b": ("is compressed with gzip", "end its name with .gz"),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "end its name with .zst"),
    b"PK\x03\x04": ("is a zip archive", "unpack it"),
    b"PAR1": ("is a Parquet file", "end its name with .parquet"),
    b"\xff\xfe": ("is text in UTF-16", "write it in UTF-8: iconv --from UTF-16 --to UTF-8"),
    b"\xfe\xff": ("is text in UTF-16", "write it in UTF-8: iconv --from UTF-16 --to UTF-8"),
}
"""What a file begins with that is called JSON and is none, what it is then, and what to do."""
_HEAD_BYTES = max(map(len, _OTHERWISE))


def open_source(path: str) -> Source:
    """The source at `path`: a file of a known suffix, its URL, or `-` for JSON lines on standard input.

    A `.json` file that holds JSON lines is read as such; what lies at a URL is fetched now. Raises `InputError` where
    the file is missing, no file, of an unknown suffix, unreadable, empty, or plainly something else than its name says.
    """
    if path == STDIN:
        return Source(path=path, kind=SourceKind.STDIN, local="")
    if encodable(path) != path:
        raise InputError(f"the name of {path} is not UTF-8", hint="rename it: no report could hold the name")
    kind, is_url = kind_of(path), storage.is_url(path)
    if kind is None:
        if not is_url:
            _check_file(path, path)
        piped = "" if is_url else f"; for JSON lines of another name: `… - < {path}`"
        raise InputError(
            f"{path}: unknown kind of file '{Path(path).suffix}'", hint=f"known are {', '.join(SUFFIXES)}{piped}"
        )
    local, copied = _fetched(path) if is_url else (path, None)
    _check_file(path, local)
    _check_beginning(path, local, kind)
    return Source(path=path, kind=kind, local=local, copied=copied).as_it_is()


def kind_of(path: str) -> SourceKind | None:
    """The kind of file that the suffix of a path or URL speaks of; None of an unknown one."""
    name = urlsplit(path).path if storage.is_url(path) else path
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def _check_file(path: str, local: str) -> None:
    try:
        status = os.stat(local)
    except OSError as error:
        raise missing_file(path) if isinstance(error, FileNotFoundError) else unreadable(path, error) from None
    except ValueError:  # a NUL character
        raise missing_file(path) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory", hint="name its data files one by one")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="pipe it in and read standard input: `-`")


def _check_beginning(path: str, local: str, kind: SourceKind) -> None:
    with reading(path), open(local, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise no_rows(path)
    if kind in (SourceKind.JSONL, SourceKind.JSON):
        for beginning, (what, hint) in _OTHERWISE.items():
            if head.startswith(beginning):
                raise InputError(f"{path} {what}", hint=hint)


def _fetched(url: str) -> LocalCopy:
    try:
        return local_copy(url)
    except FileNotFoundError:
        raise missing_file(url) from None
    except OSError as error:
        raise unreadable(url, error) from None

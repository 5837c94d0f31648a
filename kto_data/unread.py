"""An image that could not be read though it may be sound: a cache without its row would be another one.

    CheckedLine, OSError ─▶ InputError, which stops the run

On a disk such a fault stays until somebody mends it, and it is a finding like others. A store far away is slow or busy
for a while, and the next run would find the image.
"""

from __future__ import annotations

from kto_data import storage
from kto_data.check import CheckedLine
from kto_data.errors import InputError, first_line

_CODE = "KTO901"


def unread(place: str, error: OSError) -> InputError:
    """What is raised where the image at a path or URL cannot be read."""
    return _refusal(f"cannot read {place}: {error.strerror or first_line(error)}")


def refuse_unread(checked: CheckedLine, root: str) -> None:
    """Raises `InputError` where a record could not be judged for want of its images below the URL `root`."""
    for finding in checked.findings if storage.is_url(root) else ():
        if finding.code == _CODE:
            where = finding.location
            raise _refusal(f"{where.path}:{where.line}: {finding.message}")


def _refusal(what: str) -> InputError:
    return InputError(
        what,
        hint="see that it can be read (that one is not there S3 says to those alone who may list the bucket), and run "
        "the same command again: what is built is kept",
    )

"""A training of several processes that loses one: the others fail as well, and what they say is not the reason."""

from __future__ import annotations

import os
from pathlib import Path

from kto_data.errors import KtoDataError

LOST_PEER = "KTODATA_LOST_PEER"
"""The variable by which our launcher tells each process the file that is to hold what it says of a lost peer."""


class LostPeerError(KtoDataError):
    """Another process of the training has failed, and this one cannot go on without it."""


def is_left_to_launcher(error: LostPeerError) -> bool:
    """Whether our launcher will say it, if it has to be said: it knows whether a process failed by itself."""
    place = os.environ.get(LOST_PEER)
    if place is None:
        return False
    try:
        Path(place).write_text(error.what, encoding="utf-8")
    except OSError:
        return False
    return True

"""What becomes of rows that cannot be taken as they are: the user's choices, named once."""

from __future__ import annotations

from enum import StrEnum


class TooLong(StrEnum):
    """What becomes of a record whose prompt and completion do not fit the maximum length."""

    ERROR = "error"  # no cache is made
    DROP = "drop"  # it goes to the rejects file
    TRUNCATE_COMPLETION = "truncate-completion"  # the completion loses its tail; images and prompt stay whole


class Invalid(StrEnum):
    """What becomes of a line that a rule refuses."""

    ERROR = "error"  # no cache is made
    DROP = "drop"  # it goes to the rejects file


class Contradictions(StrEnum):
    """What becomes of rows with the same prompt, images and completion, and both labels."""

    KEEP = "keep"  # they are counted
    DROP = "drop"  # all go to the rejects file
    MAJORITY = "majority"  # those of the rarer label go, on a tie all


CONTRADICTION_CODE = "KTO401"
"""The reason of rows that go for contradicting others."""

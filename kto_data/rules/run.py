"""KTO9xx: how the run itself went. Nothing selects these rules, and nothing leaves them out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from kto_data.finding import Severity
from kto_data.rules.base import Defect, Stage, rule
from kto_data.rules.facts import Crash, Cut, Lost


@rule("KTO902", "rule-crashed", Severity.ERROR, Stage.RUN)
def rule_crashed(crash: Crash) -> Iterator[Defect]:
    """No rule may crash.

    An exception in a rule is a bug of this program. The record counts as unsound, since nobody has checked it whole;
    all other rules and records are checked as ever. Please report it, with the line if it may be shown. It cannot be
    ignored or made less severe.

    Bad:  `KTO305 crashed (KeyError in media.py:120)`
    Good: every rule had its say about every record
    """
    # What the exception says may quote the record: its type and its place are enough to look for the bug.
    frames = traceback.extract_tb(crash.error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    kind = type(crash.error).__name__
    yield Defect(
        f"{crash.code} crashed ({kind}{where}), a bug of ktodata: here it has checked nothing",
        data=(("rule", crash.code), ("exception", kind)),
    )


@rule("KTO903", "findings-truncated", Severity.INFO, Stage.RUN)
def findings_truncated(cut: Cut) -> Iterator[Defect]:
    """Reports should list all findings of a rule.

    Of a rule that finds something in nearly every record only the first findings are kept, so that memory does not
    grow with the defects. Counts are exact all the same.

    Bad:  1,200,000 findings of one rule, of which 10,000 are listed
    Good: the cause mended, and the run repeated
    """
    yield Defect(
        f"{cut.num_found:,} findings of {cut.code}: the first {cut.num_kept:,} are kept, the others counted",
        path=cut.path,
        data=(("rule", cut.code), ("found", cut.num_found), ("kept", cut.num_kept)),
    )


@rule("KTO904", "rows-lost", Severity.ERROR, Stage.RUN)
def rows_lost(lost: Lost) -> Iterator[Defect]:
    """Work on rows must come to its end.

    The process that worked on these rows died, and so did every other that tried them again: something in them takes
    more memory than a machine has, or crashes a library. Nobody has checked them. All other rows are checked as ever,
    and no cache is made; one that is mended and started again goes on from there. It cannot be ignored or made less
    severe.

    Bad:  an image that crashes the library that reads it
    Good: the rows taken out, or mended, and the run repeated
    """
    place = f" of {lost.place}" if lost.place else ""
    rows = "1 row" if lost.num_rows == 1 else f"{lost.num_rows:,} rows"
    yield Defect(
        f"the process that worked on {rows}{place} from here on died again and again: nobody has checked them",
        data=(("rows", lost.num_rows),),
    )

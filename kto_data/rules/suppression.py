"""KTO708: what the user's own configuration keeps out of the report."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.finding import Severity
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.facts import ConfigFacts


@rule("KTO708", "unused-suppression", Severity.WARNING, Stage.CONFIG, fix=Fix.SAFE, default=False)
def unused_suppression(facts: ConfigFacts) -> Iterator[Defect]:
    """Every suppression should still hide something.

    What it was written for has been mended, or was never matched. Left where it is, it hides the next defect of its
    kind. Suppressions of rules that do not run are left alone; a run over some of the files finds more unused than a
    run over all.

    Bad:  a suppression of KTO210 for `eval/*.jsonl`, whose images have since been scaled down
    Good: the same table of the configuration file without it
    """
    for path, entry in facts.unused_suppressions:
        yield Defect(f"the suppression of {entry} hides nothing", path=path, data=(("suppression", entry),))

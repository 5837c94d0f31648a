"""A run of `ktodata validate`, its findings told as they come, or once they are certain."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TextIO

from kto_data.commands.output import is_redacted

if TYPE_CHECKING:
    from kto_data.check import CheckSettings
    from kto_data.commands.gate import Sieve
    from kto_data.finding import Finding
    from kto_data.inputs import Excerpt, Input
    from kto_data.settings import ValidateSettings
    from kto_data.triage import Triage
    from kto_data.validation import Validation


def judge(
    inputs: Sequence[Input],
    excerpt: Excerpt,
    check: CheckSettings,
    make: Callable[[], Sieve],
    jobs: int,
    settings: ValidateSettings,
    stream: TextIO | None,
) -> tuple[Sieve, Validation]:
    """The run, and what its findings went through; made anew where its tokens turn out to be counted wrongly."""
    if check.model is None:
        sieve = make()
        return sieve, _run(inputs, excerpt, check, sieve.triage, jobs, settings, stream)
    from kto_data.chunk import SourceKind
    from kto_data.inputs import ALL_ROWS, num_bytes
    from kto_data.text_ids import WrongIdsError, fast_after

    num_chars = num_bytes(inputs) if excerpt is ALL_ROWS else None
    fast = replace(check, fast_after=fast_after(num_chars, jobs))
    is_read_once = any(entry.source.kind is SourceKind.STDIN for entry in inputs)
    for attempt in (check,) if is_read_once else (fast, check):
        # What is said of tokens may have to be taken back: so it is printed once the run has ended.
        with TemporaryFile("w+", encoding="utf-8", newline="") as held, suppress(WrongIdsError):
            sieve = make()
            validation = _run(inputs, excerpt, attempt, sieve.triage, jobs, settings, None if stream is None else held)
            if stream is not None:
                held.seek(0)
                shutil.copyfileobj(held, stream)
            return sieve, validation
    raise AssertionError("the model's own tokenizer cannot be wrong about itself")


def _run(
    inputs: Sequence[Input],
    excerpt: Excerpt,
    check: CheckSettings,
    triage: Triage,
    jobs: int,
    settings: ValidateSettings,
    stream: TextIO | None,
) -> Validation:
    from kto_data.engine.choose import open_engine
    from kto_data.progress import Progress
    from kto_data.report.text import concise_line
    from kto_data.validate import validate as run

    def listen(findings: Sequence[Finding]) -> None:
        if stream is not None:
            shown = (finding.redacted() for finding in findings) if is_redacted(settings) else findings
            stream.writelines(f"{concise_line(finding)}\n" for finding in shown)

    with (
        # On Ray it is the cluster, not the size of the data, that says how many jobs there are.
        open_engine(
            settings.engine, jobs=jobs if settings.engine == "local" else settings.jobs, address=settings.ray_address
        ) as (engine, num_jobs),
        Progress("validate", enabled=not settings.quiet and settings.progress == "auto") as progress,
    ):
        return run(
            inputs, check, excerpt=excerpt, triage=triage, jobs=num_jobs, engine=engine, listen=listen,
            progress=progress.of_rows,
        )  # fmt: skip

"""What stands between the findings of `ktodata validate` and its exit code, made from the settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kto_data.errors import ConfigError

if TYPE_CHECKING:
    from kto_data.baseline import Baseline
    from kto_data.check import CheckSettings
    from kto_data.inputs import Input
    from kto_data.settings import Codes, SuppressEntry, ValidateSettings
    from kto_data.triage import Limit, Suppression, Threshold, Triage
    from kto_data.validation import Validation


@dataclass(frozen=True, slots=True)
class Sieve:
    """The triage of a run, the baseline it was made with, and the one it is to write."""

    triage: Triage
    baseline: Baseline | None
    written: Baseline | None
    write_to: Path | None

    def close(self, validation: Validation) -> list[str]:
        """Write the new baseline; the notes that a person should read."""
        notes = []
        codes = [rule.code for rule in validation.rules]
        if self.baseline is not None and (left := self.baseline.num_left(codes)):
            found = "1 finding of the baseline is" if left == 1 else f"{left:,} findings of the baseline are"
            notes.append(f"{found} found no more: write it anew with --write-baseline")
        if self.written is not None and self.write_to is not None:
            self.written.write(self.write_to)
            number = "1 finding" if len(self.written) == 1 else f"{len(self.written):,} findings"
            notes.append(f"{number} written to {self.write_to}: --baseline {self.write_to} leaves them out")
        return notes


def make_sieve(
    settings: ValidateSettings,
    *,
    inputs: Sequence[Input],
    check: CheckSettings,
    config_file: Path | None,
    write_to: Path | None,
    jobs: int,
) -> Sieve:
    """The sieve that the settings ask for.

    Raises `UsageError` for a rule that there is not, `ConfigError` for a baseline that cannot be read.
    """
    from kto_data.finding import Severity
    from kto_data.rules.selection import by_code, codes_of
    from kto_data.triage import FileIgnore, Hidden, Triage

    baseline = written = None
    if settings.baseline or write_to:
        from kto_data.baseline import Baseline, read_baseline

        baseline = read_baseline(settings.baseline) if settings.baseline else None
        written = Baseline() if write_to else None
    known = [(Hidden.BASELINE, baseline.take)] if baseline is not None else []
    if settings.new_from is not None:
        from kto_data.revision import findings_at

        known.append((Hidden.KNOWN, findings_at(settings.new_from, inputs, check, jobs=jobs).take))
    triage = Triage(
        severities=by_code({word: Severity(level) for word, level in settings.severity.items()}),
        thresholds=_thresholds(settings),
        ignores=[FileIgnore(pattern, codes_of(_listed(words))) for pattern, words in settings.per_file_ignores.items()],
        suppressions=[_suppression(entry, str(config_file or "the settings")) for entry in settings.suppress],
        known=known,
        record=written.add if written is not None else None,
    )
    return Sieve(triage, baseline, written, write_to)


def _listed(words: Codes) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words


def _thresholds(settings: ValidateSettings) -> dict[str, Threshold]:
    from kto_data.rules.selection import by_code
    from kto_data.settings import ThresholdEntry
    from kto_data.triage import Threshold

    thresholds = {}
    for word, given in settings.thresholds.items():
        entry = given if isinstance(given, ThresholdEntry) else ThresholdEntry(error=given)
        error = None if entry.error is None else _limit(entry.error, word)
        thresholds[word] = Threshold(_limit(entry.warn, word), error)
    return by_code(thresholds)


def _limit(amount: float | str, word: str) -> Limit:
    from kto_data.triage import Limit

    text = str(amount).strip()
    number = text.removesuffix("%")
    if not re.fullmatch(r"\d+(\.\d+)?", number):
        raise ConfigError(f"the threshold of {word} is {amount!r}", hint="a number such as 10, or a share such as 0.5%")
    return Limit(float(number) / 100, True) if text != number else Limit(float(number), False)


def _suppression(entry: SuppressEntry, place: str) -> Suppression:
    from kto_data.rules.selection import codes_of
    from kto_data.triage import Suppression

    return Suppression(
        place=place,
        rule=entry.rule,
        codes=codes_of([entry.rule]),
        reason=entry.reason,
        path=entry.path,
        row=entry.row,
        expires=entry.expires,
    )

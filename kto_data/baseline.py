"""What was found before, so that only what is new counts: fingerprints and their numbers, no word of the data.

findings ─▶ Baseline ─▶ file ─▶ Baseline ─▶ which of the next findings are known
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kto_data.errors import ConfigError
from kto_data.finding import Finding
from kto_data.writing import write_whole


class BaselineDocument(BaseModel):
    """Findings that are known: code of the rule -> fingerprint -> how many."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    findings: dict[str, dict[str, Annotated[int, Field(ge=1)]]]


class Baseline:
    """A multiset of findings. Two copies of a record with one defect are two findings of one fingerprint."""

    def __init__(self, counts: Mapping[tuple[str, str], int] | None = None) -> None:
        self._counts = Counter(counts or {})

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        self._counts[finding.code, finding.fingerprint] += 1

    def take(self, finding: Finding) -> bool:
        """Whether the finding is in it. It is taken out, so that one more of the kind is new."""
        key = (finding.code, finding.fingerprint)
        if self._counts[key] <= 0:
            return False
        self._counts[key] -= 1
        return True

    def num_left(self, codes: Iterable[str]) -> int:
        """How many findings of these rules are in it: after a run, those that are there no more."""
        wanted = frozenset(codes)
        return sum(number for (code, _), number in self._counts.items() if code in wanted)

    def __len__(self) -> int:
        return self._counts.total()

    def write(self, path: Path) -> None:
        """Write it: the same findings make the same bytes, one line a fingerprint, for good diffs."""
        findings: dict[str, dict[str, int]] = {}
        for (code, fingerprint), number in sorted(self._counts.items()):
            if number:
                findings.setdefault(code, {})[fingerprint] = number
        document = {"schema_version": 1, "findings": findings}
        write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises `ConfigError` where there is none, or it is something else."""
    hint = f"ktodata validate DATA --write-baseline {path} makes one"
    try:
        document = BaselineDocument.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the baseline {path}: {error.strerror}", hint=hint) from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        told = f"{where}: {problem['msg']}" if where else problem["msg"]
        raise ConfigError(f"{path} is no baseline: {told}", hint=hint) from None
    return Baseline(
        {
            (code, fingerprint): number
            for code, numbers in document.findings.items()
            for fingerprint, number in numbers.items()
        }
    )

"""The shape of a rule: one decorated function, its docstring its documentation.

A rule knows nothing of files, lines, colours or exit codes. It looks at one value and yields a `Defect` for each
thing that is wrong with it; the engine adds code, severity and location.

The docstring's first line says what must hold; then why; then the paragraphs `Bad:` and `Good:`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from kto_data.finding import Scalar, Severity
from kto_data.image import ImageCheck

Subject = TypeVar("Subject")


class Stage(StrEnum):
    """When a rule can run, which is what it looks at."""

    ROW = "row"  # one record as written: a `Row`
    IMAGE = "image"  # one image reference of a record: `ImageFacts`
    ROW_IMAGES = "row images"  # all images of one record: `RowImages`
    DATASET = "dataset"  # all records together: `DatasetFacts`; to be told split by split, in the order of the data
    CONFIG = "config"  # what the user asked for: `ConfigFacts`; to be told in the order of its lines
    TOKENS = "tokens"  # one sound record with the model's processor: `TokenFacts`
    RUN = "run"  # how the run itself went: `Crash`, `Cut` or `Lost`; never left out


class Requirement(StrEnum):
    """What a rule cannot run without, besides images looked at closely enough; the words say how to provide it."""

    MODEL = "needs --model"
    MAX_LENGTH = "needs --model and --max-length"
    BATCH_SIZE = "needs --batch-size"
    EVAL_SPLIT = "needs an eval split (--split eval=FILE)"
    TRAIN_CONFIG = "needs --train-config"
    NEAR = "needs the package rensa (pip install 'ktodata[near]')"


class Fix(StrEnum):
    """Whether a tool may mend it."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    REJECT = "reject the record"
    NONE = "by hand"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong with the subject of a rule.

    `pointer` is a JSON Pointer in canonical spelling (`/messages/2/content`); the engine translates it to the
    spelling of the user's format. `path` and `line` are set by dataset and config rules alone, which look at many
    records at once. `severity` overrides the rule's own where one defect of a kind is worse than the others.
    """

    message: str
    pointer: str = ""
    path: str | None = None
    line: int | None = None
    severity: Severity | None = None
    quotes: tuple[str, ...] = ()
    data: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject]):
    """A check with its code and name. Codes are for machines and never change meaning; names are for people."""

    code: str
    name: str
    severity: Severity
    stage: Stage
    fix: Fix
    default: bool
    needs: ImageCheck  # how closely images must be looked at for the rule to run; OFF for rules of other stages
    requires: Requirement | None  # what else must be given
    check: Callable[[Subject], Iterator[Defect]]

    @property
    def doc(self) -> str:
        """The rule's page: what must hold, why, a bad and a good example."""
        return inspect.cleandoc(self.check.__doc__ or "")


AnyRule = Rule[Any]
"""A rule, whatever it looks at."""


def rule(
    code: str,
    name: str,
    severity: Severity,
    stage: Stage,
    *,
    fix: Fix = Fix.NONE,
    default: bool = True,
    needs: ImageCheck = ImageCheck.OFF,
    requires: Requirement | None = None,
) -> Callable[[Callable[[Subject], Iterator[Defect]]], Rule[Subject]]:
    """Make a rule of a function. `default=False`: only when selected."""

    def wrap(check: Callable[[Subject], Iterator[Defect]]) -> Rule[Subject]:
        return Rule(
            code=code,
            name=name,
            severity=severity,
            stage=stage,
            fix=fix,
            default=default,
            needs=needs,
            requires=requires,
            check=check,
        )

    return wrap

"""The label balance report as machines read it: `report.json` in a cache, its shape published as
`schemas/balance.json`.

The same cache always has the same report: nothing of the run that made it is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kto_data.distribution import Distribution, Separation
from kto_data.errors import CacheError
from kto_data.manifest import Manifest, SplitCounts, path_in, read_in
from kto_data.pairing import Microbatches
from kto_data.publish import REPORT_NAME
from kto_data.remarks import Remark


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class LabelCounts(_Model):
    """Rows by label."""

    desirable: int = 0
    undesirable: int = 0
    unreadable: int = Field(default=0, description="Rows whose label could not be read.")

    @property
    def total(self) -> int:
        """Rows, readable or not."""
        return self.desirable + self.undesirable + self.unreadable

    @property
    def balance(self) -> float | None:
        """The balance value at weights 1 and 1; None where a label has no rows."""
        return self.desirable / self.undesirable if self.desirable and self.undesirable else None


class Stages(_Model):
    """How far rows come; no stage has more of them than the one before."""

    read: LabelCounts
    valid: LabelCounts = Field(description="Without those that a rule finds an error in.")
    not_too_long: LabelCounts = Field(description="Without those, too, that are over the maximum length.")
    kept: LabelCounts = Field(description="Without those, too, that contradict others, where they are to be dropped.")

    def named(self) -> tuple[tuple[str, LabelCounts], ...]:
        """The stages in order, each under the name that people know it by."""
        return (
            ("read", self.read),
            ("valid", self.valid),
            ("not too long", self.not_too_long),
            ("kept", self.kept),
        )


class Band(_Model):
    """Weights that bring the balance value into [1, `upper`], one of them changed and the other left at 1."""

    upper: float
    desirable_weight: tuple[float, float]
    undesirable_weight: tuple[float, float]


class Weights(_Model):
    """The balance value b of the kept rows, and the weights that mend it. None where a label has no rows."""

    balance: float | None = Field(description="At weights 1 and 1.")
    verdict: str
    trl: Band | None = Field(description="The band [1, 4/3].")
    paper: Band | None = Field(description="The band [1, 3/2].")
    desirable_weight: float = Field(description="What `weights: auto` takes, the default of `ktodata train`.")
    undesirable_weight: float = Field(description="The same.")
    weighted_balance: float | None = Field(description="The balance value under these two.")
    paste: tuple[str, ...] = Field(description="Lines for a training configuration; all but the first are comments.")


class SourceCounts(_Model):
    """Rows of one source at each stage; "" is those that name none."""

    source: str
    stages: Stages


class Tokens(_Model):
    """Tokens of the kept rows of one label; those of images are among those of prompts."""

    prompt: int
    completion: int
    image: int


class Shortcut(_Model):
    """How well one property alone tells the labels apart."""

    property: str
    separation: Separation


class RepeatedCompletion(_Model):
    """A completion that several rows share."""

    text: str = Field(description="Its beginning.")
    desirable: int
    undesirable: int


class Leakage(_Model):
    """Rows of a split that the train split knows already."""

    num_same_prompt: int = Field(description="Rows whose prompt, images included, is in the train split too.")
    num_same_image: int = Field(description="Rows with an image whose bytes are in the train split too.")


class SplitReport(_Model):
    """Everything about one split."""

    counts: SplitCounts
    stages: Stages
    weights: Weights
    sources: tuple[SourceCounts, ...] = Field(description="The largest ones.")
    num_sources: int = Field(description="All of them; of more than 10,000 the later ones count as one.")
    other_sources: Stages | None = Field(description="All that `sources` leaves out together.")
    tokens: dict[Literal["desirable", "undesirable"], Tokens]
    completion_tokens: Distribution
    row_tokens: Distribution
    images: Distribution
    pixels: Distribution | None = Field(
        description="Of all images of a row together, to three digits; null where no row has an image."
    )
    shortcuts: tuple[Shortcut, ...] = Field(description="The worst first.")
    num_prompts: int = Field(description="Different ones, images included.")
    num_prompts_with_both_labels: int
    num_contradictions: int = Field(description="Rows whose prompt and completion also come with the other label.")
    num_duplicates: int = Field(description="Rows that repeat an earlier one, label included.")
    num_repeated_completions: int = Field(description="Rows whose completion another row has too.")
    top_completions: tuple[RepeatedCompletion, ...]
    num_images: int
    num_image_files: int = Field(description="Different ones, by their bytes.")
    microbatches: Microbatches | None = Field(description="Null where there are no two rows.")
    leakage: Leakage | None = Field(description="Null for the train split itself.")


class BalanceReport(_Model):
    """What is in a cache, by label, and which loss weights fit it."""

    schema_version: Literal[1] = 1
    fingerprint: str = Field(description="Of the cache; the same as in its manifest.")
    splits: dict[str, SplitReport]
    remarks: tuple[Remark, ...] = Field(description="What is worth a look, though no rule forbids it.")


def report_text(report: BalanceReport) -> str:
    """The report as JSON."""
    return report.model_dump_json(indent=2) + "\n"


def read_report(cache: Path | str, manifest: Manifest) -> BalanceReport:
    """The report of the cache with this manifest at a folder or URL.

    Raises `CacheError` where it is missing, cannot be understood, or is of another cache.
    """
    path = path_in(cache, REPORT_NAME)
    hint = "run `ktodata preprocess` again: shards that are there are taken over"
    try:
        report = BalanceReport.model_validate_json(read_in(cache, REPORT_NAME))
    except ValidationError as error:
        raise CacheError(f"{path} is not understood: {error.errors()[0]['msg']}", hint=hint) from None
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}", hint=hint) from None
    if report.fingerprint != manifest.fingerprint:
        raise CacheError(f"{path} is that of another cache", hint=hint)
    return report


def label_counts(by_label: Mapping[str, int]) -> LabelCounts:
    """Counts as the manifest has them."""
    return LabelCounts(
        desirable=by_label.get("true", 0),
        undesirable=by_label.get("false", 0),
        unreadable=by_label.get("unreadable", 0),
    )

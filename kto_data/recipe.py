"""What a cache is made of, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kto_data.allot import AllotSettings
from kto_data.build import BuildSettings
from kto_data.chunk import SourceKind
from kto_data.engine import local
from kto_data.engine.contract import Engine
from kto_data.inputs import Input
from kto_data.paths import EVAL, TRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessSettings:
    """What a cache is made of and how."""

    inputs: Mapping[str, tuple[Input, ...]]  # split -> files
    output: Path
    url: str = ""  # where the cache goes when it is whole; then `output` is its `work_folder`
    build: BuildSettings
    allot: AllotSettings = field(default_factory=AllotSettings)
    shard_rows: int
    batch_size: int  # rows a device of the training to come: the report says what its groups would be like
    jobs: int = 1
    engine: Engine = local.run
    resume: bool = True  # take over what earlier runs have done

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits of the cache, in their order."""
        return tuple(self.inputs) if self.allot.eval_fraction is None else (TRAIN, EVAL)

    @property
    def is_read_once(self) -> bool:
        """Whether there is no second reading of the data."""
        kinds = (file.source.kind for inputs in self.inputs.values() for file in inputs)
        return any(kind is SourceKind.STDIN for kind in kinds)

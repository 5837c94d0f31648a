"""The settings of a training: one YAML file, strict, every key known.

    model: MODEL                cache: CACHE              output_dir: RUN
    image_root: null            seed: 0                   trust_remote_code: false
    weights: auto               # or none, or {desirable: 1.0, undesirable: 1.3}
    reference: cached           # or live
    group_by_length: true       # rows of like length are trained together
    lora: null                  # or the fields of peft.LoraConfig
    freeze: []                  # or patterns: [vision_tower, projector]
    quantization: null          # or the fields of transformers.BitsAndBytesConfig
    deepspeed: null             # or z2, z3, z3-offload, or a file
    kto: {}                     # any field of trl.KTOConfig, by TRL's name
    resume: null                # or auto, or a checkpoint

`weights: auto` changes one loss weight, by the least that brings the label balance into [1, 4/3].
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from kto_data.errors import ConfigError
from kto_data.missing import missing_file
from kto_data.training import Problem


def _checked_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise PydanticCustomError("pattern", "must be a regular expression ({told})", {"told": str(error)}) from None
    return text


_MORE_TYPES: dict[str, tuple[type, ...]] = {"kto.fsdp": (bool,)}
"""What a field takes beside the types that its annotation names: `true` is what transformers asks for here."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pattern = Annotated[str, AfterValidator(_checked_pattern)]

RESERVED_KTO_KEYS: dict[str, str] = {
    "output_dir": "set `output_dir` at the top",
    "seed": "set `seed` at the top",
    "data_seed": "set `seed` at the top, which decides the order of rows too",
    "trust_remote_code": "set `trust_remote_code` at the top",
    "desirable_weight": "set `weights: {desirable: …, undesirable: …}`",
    "undesirable_weight": "set `weights: {desirable: …, undesirable: …}`",
    "precompute_ref_log_probs": "set `reference: cached` or `reference: live`",
    "precompute_ref_batch_size": "leave it out: reference log-probabilities are computed in the training's own groups",
    "max_length": "leave it out: the cache is already within the --max-length of `ktodata preprocess`",
    "train_sampling_strategy": "leave it out: KL groups decide the order; see `group_by_length` at the top",
    "auto_find_batch_size": "leave it out: KL groups are made before; --dry-run estimates what fits",
    "dataloader_drop_last": "leave it out: KL groups hold every row",
    "dataloader_in_order": "leave it out: KL groups are trained in their order",
    "parallelism_config": "leave it out: `deepspeed: z3` spreads the weights",
    "save_on_each_node": "leave it out, and let the machines share `output_dir`: weights are saved by the first alone",
    "remove_unused_columns": "leave it out: the cache has no columns to spare",
    "resume_from_checkpoint": "set `resume` at the top",
    "deepspeed": "set `deepspeed` at the top",
}
"""Fields of `KTOConfig` that something else here decides, and what to do instead."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Weights(_Strict):
    """The weights of the two losses."""

    desirable: Positive = 1.0
    undesirable: Positive = 1.0


class TrainConfig(_Strict):
    """All settings of `ktodata train`."""

    model: str = Field(description="Model folder or hub id.")
    cache: str = Field(description="Folder or URL of a cache that `ktodata preprocess` made.")
    output_dir: str = Field(description="Folder for checkpoints, metrics, plots and the trained model.")
    image_root: str | None = Field(default=None, description="Where image paths start, if not where they did.")
    seed: int = Field(default=0, ge=0, lt=2**32)
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")
    weights: Literal["auto", "none"] | Weights = "auto"
    reference: Literal["cached", "live"] = Field(
        default="cached", description="Reference log-probabilities: computed once and kept, or at every step."
    )
    group_by_length: bool = Field(
        default=True, description="Train rows of like length together: less padding. false: any rows together."
    )
    lora: dict[str, Any] | None = Field(default=None, description="Fields of peft.LoraConfig; null trains all weights.")
    freeze: list[Pattern] = Field(
        default=[], description="Weights that are not trained: regular expressions, each found in the names of some."
    )
    quantization: dict[str, Any] | None = Field(
        default=None, description="Fields of transformers.BitsAndBytesConfig: the frozen weights below a LoRA, packed."
    )
    deepspeed: str | None = Field(default=None, description="z2, z3, z3-offload, or a DeepSpeed configuration file.")
    kto: dict[str, Any] = Field(default={}, description="Fields of trl.KTOConfig, by TRL's names.")
    resume: str | None = Field(default=None, description="`auto`, or a checkpoint folder.")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-6 as a number, as people mean it; YAML 1.1 wants 1.0e-6 and takes the other for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, not checked yet. Raises `ConfigError` where it cannot be read."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise missing_file(str(path), ConfigError) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="name a YAML file that can be read") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="name a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{path} holds no mapping of settings", hint="ktodata train --help")
    return value


def key_lines(path: Path) -> dict[str, int]:
    """The line of each key of a YAML file that `read_config` reads; of a nested one by its dotted name."""
    lines: dict[str, int] = {}
    pending = [("", yaml.compose(path.read_text(encoding="utf-8"), _Loader))]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = f"{prefix}{key.value}"
                lines[name] = key.start_mark.line + 1
                pending.append((f"{name}.", value))
    return lines


def write_config(config: TrainConfig, path: Path) -> None:
    """Write the settings as `read_config` reads them."""
    path.write_text(to_yaml(config.model_dump()), encoding="utf-8")


def to_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as `read_config` reads them."""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def apply_setting(settings: dict[str, Any], assignment: str) -> None:
    """Apply `key=value`, where key may be dotted (`kto.beta=0.2`) and value is YAML."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: not of the form key=value", hint="--set kto.beta=0.2")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {assignment}: the value is not YAML") from None
    set_key(settings, key.split("."), value)


def set_key(settings: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a nested key, making the mappings on the way."""
    for name in path[:-1]:
        inner = settings.get(name)
        if inner is None:
            settings[name] = inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(path)}: {name} is not a mapping, but {inner!r}")
        settings = inner
    settings[path[-1]] = value


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The checked settings. Raises `ConfigError` naming every key that is unknown, missing or of a wrong type."""
    try:
        return TrainConfig.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("; ".join(told for _, told in _problems(error)), hint="ktodata train --help") from None


def setting_problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Every key that is unknown or of a wrong type; a key may be missing."""
    try:
        TrainConfig.model_validate({"model": "", "cache": "", "output_dir": "", **settings})
    except ValidationError as error:
        return [Problem(key, told) for key, told in _problems(error)]
    return []


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    """Dotted keys, and what is wrong with them."""
    found = []
    for problem in error.errors():
        location = _location(dict(problem))
        if location[0] == "weights" and problem["type"] == "literal_error" and isinstance(problem["input"], dict):
            continue  # it is no word: what is wrong in the mapping is told by itself
        key = ".".join(location) if problem["type"] == "extra_forbidden" else location[0]
        found.append((key, _told(dict(problem))))
    return list(dict.fromkeys(found))  # a union reports once a member


def _location(problem: dict[str, Any]) -> list[str]:
    """The path of a key; pydantic puts the name of a union's member in it."""
    return [str(part) for part in problem["loc"] if part != Weights.__name__]


def _told(problem: dict[str, Any]) -> str:
    location = _location(problem)
    if problem["type"] == "extra_forbidden":
        known = Weights.model_fields if location[0] == "weights" else TrainConfig.model_fields
        return unknown_key(location[-1], known, within=".".join(location[:-1]))
    if location[0] == "weights":
        return f"weights: {problem['input']!r} is neither auto, none nor {{desirable: …, undesirable: …}} above 0"
    if problem["type"] == "missing":
        return f"{'.'.join(location)} is not set"
    return f"{'.'.join(location)}: {problem['msg']}, not {problem['input']!r}"


def unknown_key(key: str, known: Iterable[str], *, within: str = "") -> str:
    """One line on a key that does not exist, with the one that was probably meant."""
    names = list(known)
    prefix = f"{within}." if within else ""
    meant = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not meant:
        meant = [name for name in names if key in name or name in key][:1]
    return f"unknown key {prefix}{key}" + (f"; did you mean {prefix}{meant[0]}?" if meant else "")


def field_problems(given: Mapping[str, Any], names: Collection[str], dataclass: str, within: str) -> Iterator[Problem]:
    """The keys of `given` that are no field of a dataclass of another library, or not for the user to set."""
    for key in given:
        if within == "kto" and key in RESERVED_KTO_KEYS:
            yield Problem(f"kto.{key}", f"kto.{key} is decided elsewhere", RESERVED_KTO_KEYS[key])
        elif key not in names:
            yield Problem(
                f"{within}.{key}", unknown_key(str(key), names, within=within), f"{within} takes {dataclass}'s fields"
            )


def check_fields(given: Mapping[str, Any], dataclass: type, within: str) -> None:
    """Check names and plain types of `given` against a dataclass of another library.

    Raises `ConfigError`. What is no plain type (int, float, bool, str, list, dict, None, or one of several) is left to
    the library itself.
    """
    hints = typing.get_type_hints(dataclass)
    names = [field.name for field in dataclasses.fields(dataclass) if field.init]
    for problem in field_problems(given, names, dataclass.__name__, within):
        raise ConfigError(problem.message, hint=problem.hint)
    for key, value in given.items():
        allowed = _plain_types(hints[key]) + _MORE_TYPES.get(f"{within}.{key}", ())
        if allowed and not _is_of(value, allowed):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
            raise ConfigError(f"{within}.{key} must be {expected}, not {value!r}")


def _plain_types(hint: Any) -> tuple[type, ...]:
    members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    bare = [typing.get_origin(member) or member for member in members]
    plain = (int, float, bool, str, list, dict, type(None))
    return tuple(bare) if all(member in plain for member in bare) else ()


def _is_of(value: Any, allowed: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, int) and float in allowed:
        return True
    return isinstance(value, allowed)

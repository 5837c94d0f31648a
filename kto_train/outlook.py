"""A training config as `ktodata validate` sees it: no torch, no TRL, no weights.

The fields of other libraries' dataclasses are read from their sources, since importing them takes as long as loading
torch; that they are the same is a test's to say.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kto_data.training import Problem, TrainPlan
from kto_train.bounds import value_problems
from kto_train.config import field_problems, key_lines, read_config, setting_problems

_EVAL_KEYS = (
    "eval_strategy",
    "do_eval",
    "eval_on_start",
    "eval_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
)
_OFF = (None, False, "no")
_BATCH_KEYS = ("per_device_train_batch_size", "per_device_eval_batch_size")

_Class = tuple[str, str, str]  # package, file in it, class

KTO_CLASSES: tuple[_Class, ...] = (
    ("trl", "trainer/kto_config.py", "KTOConfig"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("transformers", "training_args.py", "TrainingArguments"),
)
LORA_CLASSES: tuple[_Class, ...] = (
    ("peft", "tuners/lora/config.py", "LoraConfig"),
    ("peft", "config.py", "PeftConfig"),
    ("peft", "config.py", "PeftConfigMixin"),
)


def read_plan(path: Path) -> TrainPlan:
    """The training that the config at `path` describes. Raises `ConfigError` where it cannot be read."""
    return plan_of(read_config(path), path=str(path), lines=key_lines(path))


def plan_of(settings: Mapping[str, Any], *, path: str = "", lines: Mapping[str, int] | None = None) -> TrainPlan:
    """The plan that settings make. With the `lines` of a file, its keys are looked at too; values of a wrong type
    count as not given."""
    kto, lora = _mapping(settings.get("kto")), settings.get("lora")
    problems: list[Problem] = []
    unchecked: list[Problem] = []
    if lines is not None:
        problems += [*setting_problems(settings), *value_problems(kto)]
        for within, given, classes in (("kto", kto, KTO_CLASSES), ("lora", _mapping(lora), LORA_CLASSES)):
            names = field_names(classes)
            if names is not None:
                problems += field_problems(given, names, classes[0][2], within)
            elif given:
                told = f"the keys under {within} are not looked at: {classes[0][0]} is not installed"
                unchecked.append(Problem(within, told, "pip install 'ktodata[train]'"))
    sizes = {key: kto[key] for key in _BATCH_KEYS if type(kto.get(key)) is int}
    rate = kto.get("learning_rate")
    return TrainPlan(
        path=path,
        lines=lines or {},
        problems=tuple(problems),
        unchecked=tuple(unchecked),
        model=_text(settings.get("model")),
        cache=_text(settings.get("cache")),
        trust_remote_code=settings.get("trust_remote_code") is True,
        loss_type=str(kto.get("loss_type", "kto")),
        batch_sizes={f"kto.{key}": size for key, size in sizes.items()},
        batch_size=sizes.get(_BATCH_KEYS[0]),
        evaluates=tuple(f"kto.{key}" for key in _EVAL_KEYS if kto.get(key) not in _OFF),
        weights=_weights(settings.get("weights", "auto")),
        learning_rate=float(rate) if isinstance(rate, int | float) else None,
        is_lora=lora is not None,
    )


def field_names(classes: Iterable[_Class]) -> tuple[str, ...] | None:
    """The names that the constructor of a dataclass takes, given it and its bases; None where one is not installed."""
    names: dict[str, None] = {}
    for package, file, name in classes:
        spec = find_spec(package)  # finds a package without importing it
        if spec is None or not spec.submodule_search_locations:
            return None
        source = Path(spec.submodule_search_locations[0], file)
        tree = ast.parse(source.read_text(encoding="utf-8"))
        (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        names.update(dict.fromkeys(_fields(found)))
    return tuple(names)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for entry in node.body:
        if not isinstance(entry, ast.AnnAssign) or not isinstance(entry.target, ast.Name):
            continue
        options = {word.arg: word.value for word in entry.value.keywords} if isinstance(entry.value, ast.Call) else {}
        init = options.get("init")
        is_hidden = isinstance(init, ast.Constant) and init.value is False
        if not is_hidden and "ClassVar" not in ast.unparse(entry.annotation):
            yield entry.target.id


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _weights(value: Any) -> tuple[float, float] | None:
    if value == "none":
        return (1.0, 1.0)
    if not isinstance(value, Mapping):
        return None
    desirable, undesirable = value.get("desirable", 1.0), value.get("undesirable", 1.0)
    is_sound = all(type(weight) in (int, float) and weight > 0 for weight in (desirable, undesirable))
    return (float(desirable), float(undesirable)) if is_sound else None

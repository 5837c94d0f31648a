"""What is checked before any weight is read: a run must not die after an hour of something a second could tell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_data.balance import AdmissibleWeights, admissible_weights, automatic_weights
from kto_data.errors import CacheError, ConfigError, InputError, MissingExtraError, ModelError, require_packages
from kto_data.manifest import Manifest
from kto_data.paths import EVAL
from kto_data.training import TrainPlan, balance_warning, cache_mismatches
from kto_train.columns import SUPPORTED
from kto_train.config import RESERVED_KTO_KEYS, TrainConfig, Weights
from kto_train.outlook import plan_of
from kto_train.room import lack_of_room, nearest_folder

if TYPE_CHECKING:
    from kto_data.processor import Processor

_NEEDED = ("torch", "transformers", "datasets", "trl", "accelerate", "peft", "matplotlib")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DEEPSPEED = Path(__file__).parent / "deepspeed"
_METRICS_OF_LABEL = {"true": ("/chosen", "/margins"), "false": ("/rejected", "/margins")}


def check_installed() -> None:
    """Raises `MissingExtraError` for a package that is missing and `ConfigError` for one of a version not supported."""
    require_packages(_NEEDED, extra="train", needed_for="`ktodata train`")
    from packaging.specifiers import SpecifierSet

    for package, supported in SUPPORTED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise MissingExtraError(package, extra="train", needed_for="`ktodata train`") from None
        if not SpecifierSet(supported).contains(found, prereleases=True):
            raise ConfigError(
                f"{package} {found} is installed, and supported is {supported}",
                hint=f"pip install '{package}{supported}'",
            )


def check_kto_batch(config: TrainConfig) -> None:
    """Raises `ConfigError` where a loss with a KL term is to be computed on batches of one."""
    for problem in plan_of(config.model_dump()).batches_of_one():
        raise ConfigError(problem.message, hint=problem.hint)


def check_evaluation(config: TrainConfig, manifest: Manifest) -> None:
    """Raises `ConfigError` where evaluation is asked for and none can be, naming the key that asks: without an eval
    split, or without a strategy; and where the best model is to be known by a label that the eval split has not."""
    plan = plan_of(config.model_dump())
    has_split = EVAL in manifest.splits
    for problem in plan.evaluation_without_strategy() if has_split else plan.evaluation_without(config.cache):
        raise ConfigError(problem.message, hint=problem.hint)
    metric = str(config.kto.get("metric_for_best_model"))
    for label, endings in _METRICS_OF_LABEL.items():
        if metric.endswith(endings) and not manifest.splits[EVAL].counts.kept_by_label[label]:
            raise ConfigError(
                f"kto.metric_for_best_model is {metric}, and no row of the eval split has the label {label}",
                hint="kto.metric_for_best_model: loss; or an eval split with both labels",
            )


def check_output(config: TrainConfig) -> None:
    """Raises `InputError` where the output cannot be written, `ConfigError` where it holds another run."""
    output = Path(config.output_dir)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder")
    if (output / "run.json").exists() and config.resume is None:
        raise ConfigError(f"{output} holds another run", hint="--resume auto goes on with it; or name another --output")
    if not os.access(nearest_folder(output), os.W_OK):
        raise InputError(f"{output} cannot be written to")


def check_weights_are_there(model: str) -> None:
    """Raises `ModelError` for a model folder without weights that can be trusted: so far a tokenizer and a processor
    were enough."""
    folder = Path(model)
    if not folder.is_dir() or weight_files(folder):
        return
    if any(list(folder.glob(pattern)) for pattern in _PICKLES):
        raise ModelError(
            f"the weights of {model} are pickles, which run what they say when they are read",
            hint="where you trust them, save them anew: `save_pretrained` of transformers writes model.safetensors",
        )
    raise ModelError(f"{model} has no weights", hint="a folder with model.safetensors, or a hub id")


def weight_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold its weights, or say which do."""
    return sorted(path for pattern in _WEIGHT_FILES for path in folder.glob(pattern))


def check_cache_and_model(manifest: Manifest, processor: Processor) -> None:
    """Raises `CacheError` where the cache was made for another model, naming the part with both values."""
    for problem in cache_mismatches(manifest, processor):
        raise CacheError(problem.message, hint=problem.hint)


def check_backbone(model: Any) -> None:
    """Raises `ModelError` for a model that keeps no part without its language head: of that part TRL scores the hidden
    states."""
    whole = below_adapter(model)
    if whole.base_model is whole:
        raise ModelError(
            f"{type(whole).__name__} has no part without its language head, and TRL cannot train it",
            hint="another model",
        )


def check_goes_with_groups(args: Any) -> None:
    """Raises `ConfigError` for what rows in KL groups cannot do, in a script, whose settings nobody has looked at."""
    for key in ("auto_find_batch_size", "dataloader_drop_last"):
        if getattr(args, key):
            raise ConfigError(f"{key} does not go with rows in KL groups", hint=RESERVED_KTO_KEYS[key])


def below_adapter(model: Any) -> Any:
    """The model that an adapter is around; the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_strategy(config: TrainConfig) -> None:
    """Raises `MissingExtraError` and `ConfigError` where the weights cannot be packed or spread as asked."""
    if config.quantization is not None:
        require_packages(("bitsandbytes",), extra="quantization", needed_for="`quantization`")
        if config.lora is None:
            raise ConfigError(
                "quantized weights cannot be trained themselves", hint="lora: {r: 16} trains an adapter above them"
            )
    if config.deepspeed is not None:
        require_packages(("deepspeed",), extra="deepspeed", needed_for="`deepspeed`")
        if not deepspeed_file(config.deepspeed).is_file():
            known = ", ".join(sorted(path.stem for path in _DEEPSPEED.glob("*.json")))
            raise ConfigError(f"deepspeed: {config.deepspeed} is neither one of {known} nor a file")
    if config.kto.get("fsdp_config") and not config.kto.get("fsdp"):
        raise ConfigError(
            "kto.fsdp_config is given without kto.fsdp, and would change nothing",
            hint="kto.fsdp: true; or leave it out",
        )
    is_spread = config.deepspeed is not None or bool(config.kto.get("fsdp"))
    if is_spread and config.kto.get("save_only_model") and config.kto.get("load_best_model_at_end"):
        raise ConfigError(
            "kto.load_best_model_at_end needs whole checkpoints where weights are spread over processes",
            hint="leave kto.save_only_model out",
        )


def deepspeed_file(name: str) -> Path:
    """The DeepSpeed configuration that `deepspeed: name` means: one that comes with the package, or the user's own."""
    shipped = _DEEPSPEED / f"{name}.json"
    return shipped if shipped.is_file() else Path(name)


def check_trackers(names: Iterable[str]) -> None:
    """Raises `ConfigError` for a tracker of `kto.report_to` that is not installed."""
    from transformers.integrations import get_available_reporting_integrations

    for name in names:
        if name not in ("all", "none", *get_available_reporting_integrations()):
            raise ConfigError(
                f"kto.report_to names {name}, which is not installed, or which transformers does not know",
                hint=f"pip install {name}; or leave it out: metrics.jsonl and report.html are always written",
            )


def warnings_of(config: TrainConfig, args: Any, balance: AdmissibleWeights, num_steps: int) -> Iterator[str]:
    """What can be done and perhaps should not, in a run of so many steps."""
    plan = TrainPlan(learning_rate=args.learning_rate, is_lora=config.lora is not None)
    yield from (problem.message for problem in plan.unusual_rate())
    told = balance_warning(balance)
    if told:
        yield told
    if args.save_only_model:
        yield "kto.save_only_model: this run cannot be gone on with, its checkpoints hold the model alone"
    yield from lack_of_room(config, args, num_steps)


def chosen_weights(wanted: str | Weights, num_desirable: int, num_undesirable: int) -> AdmissibleWeights:
    """The loss weights to train with, and the balance they give."""
    if isinstance(wanted, Weights):
        return admissible_weights(num_desirable, num_undesirable, wanted.desirable, wanted.undesirable)
    choose = admissible_weights if wanted == "none" else automatic_weights
    return choose(num_desirable, num_undesirable)

"""What is checked before any weight is read: a run must not die after an hour of something a second could tell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_data.balance import AdmissibleWeights, admissible_weights, automatic_weights
from kto_data.errors import CacheError, ConfigError, InputError, MissingExtraError, ModelError, require_packages
from kto_data.manifest import Manifest
from kto_data.paths import EVAL
from kto_data.training import TrainPlan, balance_warning, cache_mismatches
from kto_train.columns import SUPPORTED
from kto_train.config import TrainConfig, Weights
from kto_train.outlook import plan_of

if TYPE_CHECKING:
    from kto_data.processor import Processor

_NEEDED = ("torch", "transformers", "datasets", "trl", "accelerate", "peft", "matplotlib")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DEEPSPEED = Path(__file__).parent / "deepspeed"
_CHECKPOINT_COPIES = 3  # a checkpoint of all weights holds them once and AdamW's two averages


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
    split, or without a strategy."""
    plan = plan_of(config.model_dump())
    has_split = EVAL in manifest.splits
    for problem in plan.evaluation_without_strategy() if has_split else plan.evaluation_without(config.cache):
        raise ConfigError(problem.message, hint=problem.hint)


def check_output(config: TrainConfig) -> None:
    """Raises `InputError` where the output cannot be written, `ConfigError` where it holds another run."""
    output = Path(config.output_dir)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder")
    if (output / "run.json").exists() and config.resume is None:
        raise ConfigError(f"{output} holds another run", hint="--resume auto goes on with it; or name another --output")
    if not os.access(_nearest_folder(output), os.W_OK):
        raise InputError(f"{output} cannot be written to")


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


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
    number = _num_checkpoints(args, num_steps)
    needed = number * _checkpoint_bytes(config, args)
    free = shutil.disk_usage(_nearest_folder(Path(config.output_dir))).free  # which may be a disk of its own
    if needed > free:
        told = "a checkpoint takes" if number == 1 else f"{number:,} checkpoints, which are kept at a time, take"
        fewer = "; kto.save_total_limit keeps fewer" if number > 1 and not args.save_total_limit else ""
        yield f"{told} about {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free{fewer}"


def _checkpoint_bytes(config: TrainConfig, args: Any) -> int:
    """Bytes of a checkpoint of all weights; 0 of an adapter, which is small, and of a model that is not here yet."""
    if config.lora is not None or not Path(config.model).is_dir():
        return 0
    import torch
    from safetensors import SafetensorError, safe_open

    in_files = num_weights = 0
    for path in Path(config.model).glob("*.safetensors"):
        in_files += path.stat().st_size
        try:
            with safe_open(path, framework="numpy") as file:
                num_weights += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except SafetensorError:  # which reading the model tells
            return 0
    dtype = (args.model_init_kwargs or {}).get("dtype", "float32")  # TRL's default, whatever the files are of
    weights = in_files if dtype == "auto" else num_weights * getattr(torch, dtype).itemsize
    if config.deepspeed is not None or args.fsdp:  # they keep what is trained in full
        weights = max(weights, num_weights * torch.float32.itemsize)
    return weights if args.save_only_model else _CHECKPOINT_COPIES * weights


def _num_checkpoints(args: Any, num_steps: int) -> int:
    """How many are there at a time, at most: an older one goes when a newer one is whole."""
    made = 1  # by a run that is stopped, if by none other
    if args.save_strategy == "steps" and args.save_steps > 0:  # with 0 transformers saves none
        every = args.save_steps if args.save_steps >= 1 else ceil(args.save_steps * num_steps)
        made = ceil(num_steps / every)
    elif args.save_strategy == "epoch" and args.max_steps <= 0:
        made = ceil(args.num_train_epochs)
    return min(made, args.save_total_limit + 1) if args.save_total_limit else made


def chosen_weights(wanted: str | Weights, num_desirable: int, num_undesirable: int) -> AdmissibleWeights:
    """The loss weights to train with, and the balance they give."""
    if isinstance(wanted, Weights):
        return admissible_weights(num_desirable, num_undesirable, wanted.desirable, wanted.undesirable)
    choose = admissible_weights if wanted == "none" else automatic_weights
    return choose(num_desirable, num_undesirable)

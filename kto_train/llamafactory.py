"""A LLaMA-Factory training file as a `TrainConfig`, the `ktodata preprocess` that belongs to it, and what is lost.

LLaMA-Factory has data, model and training in one file, and values for what a file leaves out. Here the data is a step
of its own, so that a file becomes two things: settings for `ktodata train`, and options for `ktodata preprocess`. Where
its defaults are not ours they are written out: the run is to be the same one. Every key is translated or remarked on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kto_data.errors import ConfigError
from kto_train.config import RESERVED_KTO_KEYS, set_key

_PARTS: dict[str, str] = {
    "freeze_vision_tower": "vision_tower|vision_model|visual",
    "freeze_multi_modal_projector": "projector|connector|merger",
    "freeze_language_model": "language_model|lm_head",
}
"""What models call their parts, as patterns of `freeze`."""

_DEFAULTS: dict[str, Any] = {
    "finetuning_type": "lora",
    "learning_rate": 5e-5,
    "pref_beta": 0.1,
    "kto_chosen_weight": 1.0,
    "kto_rejected_weight": 1.0,
    "bf16": False,
    "cutoff_len": 2048,
}
"""Its values for keys that a file leaves out, where another value here would make another run (version 0.9.5)."""

_LORA_DEFAULTS: dict[str, Any] = {"lora_rank": 8, "lora_dropout": 0.0, "lora_target": "all"}
_IMAGE_DEFAULTS: dict[str, Any] = {
    "image_max_pixels": 768 * 768,
    "image_min_pixels": 32 * 32,
}
"""Of no consequence for a text model, and left out where the folder of the model shows it to be one."""

_FREEZE_DEFAULTS: dict[str, Any] = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True}
"""For a model that takes images, and is known to: a pattern of `freeze` that is found in no weight is refused."""

_OF_IMAGES = {*_IMAGE_DEFAULTS, *_PARTS, "media_dir"}
"""Keys that are in files for models that take images."""

_NEEDLESS: dict[str, str] = {
    "stage": "this is KTO",
    "do_train": "this is training",
    "finetuning_type": "all weights, unless `lora` is there",
    "plot_loss": "curves are always drawn",
    "overwrite_output_dir": "a run is never overwritten; --resume auto goes on with it",
    "overwrite_cache": "a cache that does not fit is made again without asking",
    "template": "the model's own chat template is used: look whether it is the same",
    "dataset_dir": "part of --dataset-info",
    "lora_alpha": "part of lora",
    "quantization_method": "bitsandbytes",
    "quantization_type": "part of quantization",
    "double_quantization": "part of quantization",
    "preprocessing_batch_size": "chosen by the program",
    "data_shared_file_system": "one machine makes the cache",
    "use_fast_tokenizer": "the fast one where there is one",
    "low_cpu_mem_usage": "always",
    "ignore_pad_token_for_loss": "always",
}

_LOST: dict[str, str] = {
    "pref_ftx": "no supervised loss is added to KTO's",
    "ref_model": "the reference is the model that training starts from",
    "adapter_name_or_path": "merge the adapter into the model first",
    "packing": "a row stays a row",
    "neat_packing": "a row stays a row",
    "streaming": "a cache is read from disk as it is needed",
    "mix_strategy": "rows keep their order, groups are shuffled",
    "train_on_prompt": "the completion alone is judged",
    "default_system": "write it into the rows",
    "use_unsloth": "transformers' own models are trained",
    "resize_vocab": "save the model with its new vocabulary first",
    "disable_shuffling": "groups are always shuffled",
    "eval_dataset": "name its file: ktodata preprocess … --eval-data FILE",
    "max_samples": "name a shorter file",
}


@dataclass(slots=True)
class Imported:
    """What became of a file."""

    settings: dict[str, Any] = field(default_factory=dict)  # as `make_config` takes them
    preprocess: list[str] = field(default_factory=list)  # options of `ktodata preprocess`
    defaults: list[str] = field(default_factory=list)  # keys that the file left out and that are written out here
    changed: dict[str, str] = field(default_factory=dict)  # key of ours -> what to know of its value
    needless: dict[str, str] = field(default_factory=dict)  # key -> why nothing takes its place
    lost: dict[str, str] = field(default_factory=dict)  # key -> what is done, or can be done, instead


Translation = Callable[[Any, Mapping[str, Any], Imported], None]
"""Takes a value, all settings of the file, and what to add to."""


def import_config(given: Mapping[str, Any], *, kto_fields: Collection[str]) -> Imported:
    """Translate the settings of a LLaMA-Factory file; `kto_fields` are the names of `KTOConfig`'s fields.

    Raises `ConfigError` where the file is of another kind of training, names no model, or has a value of a wrong kind.
    """
    _check_kind(given)
    written = {key: value for key, value in given.items() if value is not None}
    takes_images = _takes_images(written)
    assumed = {key: value for key, value in _assumed(written, takes_images).items() if key not in written}
    settings = {"dataset_dir": "data", "output_dir": "run", **written, **assumed}
    result = Imported(defaults=sorted(assumed))
    for key, value in settings.items():
        _translate(key, value, settings, kto_fields, result)
    _mend_batches_of_one(result)
    if takes_images is None:
        parts = ", ".join(_PARTS[key] for key in _FREEZE_DEFAULTS)
        result.changed["freeze"] = f"not set; a model that takes images has there by default [{parts}]"
    cache = result.settings.setdefault("cache", f"{settings['output_dir']}-cache")
    result.preprocess += ["--model", result.settings["model"], "--output", cache]
    return result


def _check_kind(given: Mapping[str, Any]) -> None:
    stage, kind = given.get("stage"), given.get("finetuning_type", "lora")
    if stage != "kto":
        told = "names no stage" if stage is None else f"is of stage {stage}"
        raise ConfigError(f"the file {told}, and this is KTO", hint="a LLaMA-Factory file with `stage: kto`")
    if not given.get("model_name_or_path"):
        raise ConfigError("model_name_or_path is not set in the file")
    if kind not in ("lora", "full"):
        raise ConfigError(f"finetuning_type: {kind} has no counterpart", hint="full, or lora")


def _takes_images(written: Mapping[str, Any]) -> bool | None:
    """Whether the model takes images; None where neither its folder nor the file shows it."""
    folder = Path(str(written["model_name_or_path"]))
    if folder.is_dir():
        return any(folder.glob("*processor_config.json"))
    return True if _OF_IMAGES & written.keys() else None


def _assumed(written: Mapping[str, Any], takes_images: bool | None) -> dict[str, Any]:
    defaults = dict(_DEFAULTS)
    if written.get("finetuning_type", "lora") == "lora":
        defaults |= _LORA_DEFAULTS
    if "fp16" in written or "pure_bf16" in written:
        del defaults["bf16"]
    if takes_images is not False:
        defaults |= _IMAGE_DEFAULTS
    if takes_images:
        defaults |= _FREEZE_DEFAULTS
    return defaults


def _mend_batches_of_one(result: Imported) -> None:
    """A KL term needs a second row: the same rows a step, two at a time."""
    kto = result.settings.get("kto", {})
    if kto.get("per_device_train_batch_size") == 1:
        accumulated = kto.get("gradient_accumulation_steps", 1)
        if not isinstance(accumulated, int):
            raise ConfigError(f"gradient_accumulation_steps: {accumulated!r} is not what LLaMA-Factory takes there")
        kto |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": max(1, accumulated // 2)}
        told = f"the KL term needs two rows; 1 row {accumulated} times was asked for"
        result.changed["kto.per_device_train_batch_size"] = told
    if kto.get("per_device_eval_batch_size") == 1:
        kto["per_device_eval_batch_size"] = 2
        result.changed["kto.per_device_eval_batch_size"] = "the KL term needs two rows; 1 was asked for"


def _translate(
    key: str, value: Any, settings: Mapping[str, Any], kto_fields: Collection[str], result: Imported
) -> None:
    if key in _TRANSLATIONS:
        try:
            _TRANSLATIONS[key](value, settings, result)
        except (TypeError, ValueError, AttributeError):
            raise ConfigError(f"{key}: {value!r} is not what LLaMA-Factory takes there") from None
    elif key in _NEEDLESS:
        result.needless[key] = _NEEDLESS[key]
    elif key in kto_fields and key not in RESERVED_KTO_KEYS:
        set_key(result.settings, ["kto", key], value)
    elif value not in (False, "", 0):  # what is off is not missed
        result.lost[key] = _LOST.get(key, RESERVED_KTO_KEYS.get(key, "no counterpart"))


# ---- translations of one key each


def _as(path: str, change: Callable[[Any], Any] = lambda value: value) -> Translation:
    def translate(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
        set_key(result.settings, path.split("."), change(value))

    return translate


def _as_option(name: str) -> Translation:
    def translate(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
        result.preprocess += [name, str(value)]

    return translate


def _as_lora(name: str, change: Callable[[Any], Any] = lambda value: value) -> Translation:
    def translate(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
        if settings["finetuning_type"] == "lora":
            set_key(result.settings, ["lora", name], change(value))

    return translate


def _lora_rank(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    if settings["finetuning_type"] == "lora":
        result.settings.setdefault("lora", {}).update(r=value, lora_alpha=settings.get("lora_alpha", 2 * value))


def _names(value: str) -> list[str] | str:
    return "all-linear" if value == "all" else [name.strip() for name in value.split(",")]


def _freeze(key: str) -> Translation:
    def translate(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
        if value:
            result.settings.setdefault("freeze", []).append(_PARTS[key])

    return translate


def _quantization(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    if value == 8:
        result.settings["quantization"] = {"load_in_8bit": True}
    elif value == 4:
        result.settings["quantization"] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": settings.get("quantization_type", "nf4"),
            "bnb_4bit_use_double_quant": settings.get("double_quantization", True),
        }
    else:
        result.lost["quantization_bit"] = "4 or 8 bits"


def _deepspeed(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    shipped = {"ds_z2_config.json": "z2", "ds_z3_config.json": "z3", "ds_z3_offload_config.json": "z3-offload"}
    result.settings["deepspeed"] = value if Path(str(value)).is_file() else shipped.get(Path(str(value)).name, value)


def _attention(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    names = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}
    if value in names:
        set_key(result.settings, ["kto", "model_init_kwargs", "attn_implementation"], names[value])
    elif value == "auto":
        result.needless["flash_attn"] = "transformers chooses too"
    else:
        result.lost["flash_attn"] = f"{value} is none of {', '.join(names)}; transformers chooses"


def _resume(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    if value is True:
        result.settings["resume"] = "auto"
    elif not value:
        result.needless["resume_from_checkpoint"] = "a run starts anew unless `resume` is there"
    else:
        result.settings["resume"] = str(value)


def _dataset(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    names = [name.strip() for name in str(value).split(",")]
    result.preprocess += ["--dataset-info", f"{settings['dataset_dir']}/dataset_info.json", "--dataset", names[0]]
    if len(names) > 1:
        result.lost["dataset"] = f"one entry at a time: `ktodata convert` the others too ({', '.join(names[1:])})"


def _cutoff(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    result.preprocess += ["--max-length", str(value), "--too-long", "truncate-completion"]


def _val_size(value: Any, settings: Mapping[str, Any], result: Imported) -> None:
    if 0 < value < 1:
        result.preprocess += ["--eval-fraction", str(value)]
    elif value:
        result.lost["val_size"] = "a share of the rows below 1: --eval-fraction"


_TRANSLATIONS: dict[str, Translation] = {
    "model_name_or_path": _as("model", str),
    "output_dir": _as("output_dir"),
    "seed": _as("seed"),
    "trust_remote_code": _as("trust_remote_code"),
    "resume_from_checkpoint": _resume,
    "tokenized_path": _as("cache"),
    "pref_beta": _as("kto.beta"),
    "kto_chosen_weight": _as("weights.desirable"),
    "kto_rejected_weight": _as("weights.undesirable"),
    "lora_rank": _lora_rank,
    "lora_dropout": _as_lora("lora_dropout"),
    "lora_target": _as_lora("target_modules", _names),
    "additional_target": _as_lora("modules_to_save", _names),
    "use_rslora": _as_lora("use_rslora"),
    "use_dora": _as_lora("use_dora"),
    **{key: _freeze(key) for key in _PARTS},
    "quantization_bit": _quantization,
    "deepspeed": _deepspeed,
    "flash_attn": _attention,
    "disable_gradient_checkpointing": _as("kto.gradient_checkpointing", lambda value: not value),
    "warmup_ratio": _as("kto.warmup_steps", float),  # below 1 a share of all steps
    "dataset": _dataset,
    "media_dir": _as_option("--image-root"),
    "cutoff_len": _cutoff,
    "image_max_pixels": _as_option("--image-max-pixels"),
    "image_min_pixels": _as_option("--image-min-pixels"),
    "preprocessing_num_workers": _as_option("--jobs"),
    "val_size": _val_size,
}

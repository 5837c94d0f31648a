from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import KTOConfig

from kto_data.cli import main
from kto_data.errors import ConfigError, ExitCode
from kto_train.arguments import check_library_fields
from kto_train.config import TrainConfig, check_fields, make_config, read_config
from kto_train.llamafactory import Imported, import_config
from kto_train.outlook import KTO_CLASSES, field_names

LEAST = {"stage": "kto", "model_name_or_path": "org/model"}
USUAL_FILE = """
### model
model_name_or_path: org/chat-1b
trust_remote_code: false
flash_attn: auto

### method
stage: kto
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
pref_beta: 0.2

### dataset
dataset: answers
template: chatml
cutoff_len: 1024
max_samples: 500
preprocessing_num_workers: 4
dataloader_num_workers: 2

### output
output_dir: saves/chat-1b
logging_steps: 5
save_steps: 200
plot_loss: true
overwrite_output_dir: true
report_to: none  # or wandb

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 4
learning_rate: 1.0e-6
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.05
bf16: true
ddp_timeout: 3600000
resume_from_checkpoint: false

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 100
"""


def imported(**settings: Any) -> Imported:
    return import_config({**LEAST, **settings}, kto_fields=field_names(KTO_CLASSES) or ())


def test_what_a_file_leaves_out_is_as_it_was_there() -> None:
    found = imported()
    config = make_config(found.settings)
    assert config.lora == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert config.kto == {"learning_rate": 5e-5, "beta": 0.1, "bf16": False}
    assert (config.weights.desirable, config.weights.undesirable) == (1.0, 1.0)  # type: ignore[union-attr]
    options = " ".join(found.preprocess)
    assert "--max-length 2048 --too-long truncate-completion" in options
    assert "--image-max-pixels 589824 --image-min-pixels 1024" in options


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"pref_beta": 0.2}, "kto.beta", 0.2),
        ({"kto_rejected_weight": 1.5}, "weights.undesirable", 1.5),
        ({"lora_rank": 16}, "lora.lora_alpha", 32),
        ({"lora_rank": 16, "lora_alpha": 16}, "lora.lora_alpha", 16),
        ({"lora_target": "q_proj, v_proj"}, "lora.target_modules", ["q_proj", "v_proj"]),
        ({"additional_target": "embed_tokens"}, "lora.modules_to_save", ["embed_tokens"]),
        ({"finetuning_type": "full"}, "lora", None),
        ({"freeze_vision_tower": False}, "freeze", ["projector|connector|merger"]),
        ({"quantization_bit": 8}, "quantization", {"load_in_8bit": True}),
        ({"quantization_bit": 4}, "quantization.bnb_4bit_quant_type", "nf4"),
        ({"deepspeed": "examples/deepspeed/ds_z3_offload_config.json"}, "deepspeed", "z3-offload"),
        ({"deepspeed": "mine.json"}, "deepspeed", "mine.json"),
        ({"flash_attn": "fa2"}, "kto.model_init_kwargs.attn_implementation", "flash_attention_2"),
        ({"disable_gradient_checkpointing": True}, "kto.gradient_checkpointing", False),
        ({"warmup_ratio": 0.1}, "kto.warmup_steps", 0.1),
        ({"num_train_epochs": 3.0}, "kto.num_train_epochs", 3.0),
        ({"resume_from_checkpoint": True}, "resume", "auto"),
        ({"resume_from_checkpoint": False}, "resume", None),
        ({"resume_from_checkpoint": "saves/a/checkpoint-5"}, "resume", "saves/a/checkpoint-5"),
        ({"tokenized_path": "tokens"}, "cache", "tokens"),
        ({"output_dir": "saves/a"}, "cache", "saves/a-cache"),
    ],
)
def test_a_key_has_its_counterpart(settings: dict[str, Any], key: str, expected: Any) -> None:
    value: Any = make_config(imported(**settings).settings).model_dump()
    for name in key.split("."):
        value = value[name]
    assert value == expected


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"dataset": "mine"}, "--dataset-info data/dataset_info.json --dataset mine"),
        ({"dataset": "mine", "dataset_dir": "d"}, "--dataset-info d/dataset_info.json --dataset mine"),
        ({"media_dir": "photos"}, "--image-root photos"),
        ({"cutoff_len": 512}, "--max-length 512 --too-long truncate-completion"),
        ({"val_size": 0.1}, "--eval-fraction 0.1"),
        ({"preprocessing_num_workers": 16}, "--jobs 16"),
    ],
)
def test_what_belongs_to_the_data_is_an_option_of_preprocess(settings: dict[str, Any], options: str) -> None:
    assert options in " ".join(imported(**settings).preprocess)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"pref_ftx": 0.1}, "pref_ftx"),
        ({"packing": True}, "packing"),
        ({"ref_model": "other"}, "ref_model"),
        ({"val_size": 100}, "val_size"),
        ({"dataset": "one,two"}, "dataset"),
        ({"use_galore": True}, "use_galore"),
        ({"quantization_bit": 2}, "quantization_bit"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_a_key_without_counterpart_is_named(settings: dict[str, Any], key: str) -> None:
    assert key in imported(**settings).lost


def test_what_was_off_is_not_missed() -> None:
    assert imported(packing=False, use_galore=False, pref_ftx=0.0, val_size=0, ref_model=None).lost == {}


def test_every_key_is_translated_or_remarked_on() -> None:
    given = {
        "plot_loss": True, "template": "qwen2_vl", "overwrite_cache": True, "use_galore": True, "logging_steps": 5,
        "lora_rank": 4, "val_size": 0.2, "dataset": "a", "preprocessing_batch_size": 100,
    }  # fmt: skip
    found = imported(**given)
    text = yaml.safe_dump(found.settings) + " ".join(found.preprocess)
    assert found.needless.keys() >= {"plot_loss", "template", "overwrite_cache", "preprocessing_batch_size"}
    assert found.lost.keys() == {"use_galore"}
    assert all(part in text for part in ("logging_steps: 5", "r: 4", "--eval-fraction 0.2", "--dataset a"))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"flash_attn": "auto"}, "needless"),
        ({"flash_attn": "fa9"}, "lost"),
        ({"resume_from_checkpoint": False}, "needless"),
    ],
)
def test_a_value_that_nothing_is_made_of_is_remarked_on(settings: dict[str, Any], kind: str) -> None:
    assert next(iter(settings)) in getattr(imported(**settings), kind)


def test_a_batch_of_one_becomes_two_rows_half_as_often() -> None:
    found = imported(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    kto = found.settings["kto"]
    assert (kto["per_device_train_batch_size"], kto["gradient_accumulation_steps"]) == (2, 4)
    assert "kto.per_device_train_batch_size" in found.changed


def test_a_folder_of_a_text_model_has_nothing_to_freeze(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    found = imported(model_name_or_path=str(tmp_path))
    assert "freeze" not in found.settings
    assert "--image-max-pixels" not in found.preprocess


def test_a_model_that_may_take_no_images_has_what_would_be_frozen_in_a_remark() -> None:
    """Patterns that are found in no weight of it are refused."""
    found = imported()
    assert "freeze" not in found.settings
    assert not any(key.startswith("freeze") for key in found.defaults)
    assert "[vision_tower|vision_model|visual, projector|connector|merger]" in found.changed["freeze"]


@pytest.mark.parametrize("settings", [{"image_max_pixels": 262_144}, {"media_dir": "photos"}])
def test_a_file_with_settings_for_images_is_for_a_model_that_takes_them(settings: dict[str, Any]) -> None:
    found = imported(**settings)
    assert found.settings["freeze"] == ["vision_tower|vision_model|visual", "projector|connector|merger"]
    assert "freeze" not in found.changed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stage": "dpo"}, "the file is of stage dpo, and this is KTO"),
        ({"stage": None}, "the file names no stage, and this is KTO"),
        ({"model_name_or_path": None}, "model_name_or_path is not set in the file"),
        ({"finetuning_type": "oft"}, "finetuning_type: oft has no counterpart"),
    ],
)
def test_a_file_of_another_kind_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        imported(**settings)
    assert raised.value.what == told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("val_size", "half"),
        ("lora_target", ["q_proj", "v_proj"]),
        ("warmup_ratio", "a tenth"),
        ("gradient_accumulation_steps", "8"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        imported(per_device_train_batch_size=1, **{key: value})
    assert raised.value.what == f"{key}: {value!r} is not what LLaMA-Factory takes there"


def test_the_command_writes_settings_that_train_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kto.yaml"
    file.write_text(
        "stage: kto\nmodel_name_or_path: org/model\noutput_dir: out\nlearning_rate: 5.0e-6\npacking: true\n"
    )
    assert main(["config", "import", str(file)]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "ktodata preprocess --max-length 2048" in printed
    assert "#   packing: a row stays a row" in printed
    assert main(["config", "import", str(file), "-o", str(tmp_path / "train.yaml")]) == ExitCode.OK
    assert (tmp_path / "train.yaml").read_text() == printed
    config = make_config(yaml.safe_load(printed))
    assert isinstance(config, TrainConfig)
    check_fields(config.kto, KTOConfig, "kto")


def test_a_file_of_the_usual_shape_is_one_that_train_takes(tmp_path: Path) -> None:
    """With the keys that people have in theirs, sections and remarks as there."""
    file, output = tmp_path / "kto.yaml", tmp_path / "train.yaml"
    file.write_text(USUAL_FILE)
    assert main(["config", "import", str(file), "-o", str(output)]) == ExitCode.OK
    config = make_config(read_config(output))
    check_library_fields(config)
    assert config.lora == {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert config.freeze == []
    assert config.kto["warmup_steps"] == 0.05
    assert config.kto["eval_strategy"] == "steps"
    assert config.resume is None
    remarks = [line for line in output.read_text().splitlines() if line.startswith("#   ")]
    named = {line.removeprefix("#   ").split(":")[0] for line in remarks}
    assert named >= {"template", "max_samples", "plot_loss", "overwrite_output_dir", "resume_from_checkpoint", "freeze"}

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig
from trl import KTOConfig

from kto_data.errors import ConfigError
from kto_train.arguments import check_library_fields
from kto_train.bounds import value_problems
from kto_train.config import (
    TrainConfig,
    Weights,
    apply_setting,
    check_fields,
    make_config,
    read_config,
    unknown_key,
    write_config,
)

LEAST = {"model": "m", "cache": "c", "output_dir": "o"}


def refused(settings: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as raised:
        make_config(settings)
    return raised.value.what


def test_the_least_settings_are_three_paths() -> None:
    assert make_config(LEAST) == TrainConfig(model="m", cache="c", output_dir="o")


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = TrainConfig(**LEAST, weights=Weights(undesirable=1.5), kto={"learning_rate": 1e-6}, lora={"r": 8})
    write_config(config, tmp_path / "train.yaml")
    assert make_config(read_config(tmp_path / "train.yaml")) == config


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001", "1E-6"])
def test_a_number_may_be_written_with_an_exponent(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"kto: {{learning_rate: {text}}}\n")
    assert read_config(path) == {"kto": {"learning_rate": 1e-6}}


def test_a_word_with_an_e_stays_a_word(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("model: 1e-6b\ncache: e5\n")
    assert read_config(path) == {"model": "1e-6b", "cache": "e5"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"wieghts": "auto"}, "unknown key wieghts; did you mean weights?"),
        ({"weights": {"desirabel": 1.0}}, "unknown key weights.desirabel; did you mean weights.desirable?"),
        (
            {"weights": "automatic"},
            "weights: 'automatic' is neither auto, none nor {desirable: …, undesirable: …} above 0",
        ),
        (
            {"weights": {"desirable": -1.0}},
            "weights: -1.0 is neither auto, none nor {desirable: …, undesirable: …} above 0",
        ),
        ({"seed": "1"}, "seed: Input should be a valid integer, not '1'"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, not -1"),
        (
            {"freeze": ["tower", "("]},
            "freeze.1: must be a regular expression (missing ), unterminated subpattern at position 0), not '('",
        ),
        ({"reference": "cashed"}, "reference: Input should be 'cached' or 'live', not 'cashed'"),
        ({"model": None}, "model: Input should be a valid string, not None"),
    ],
)
def test_a_wrong_setting_is_told(change: dict[str, object], told: str) -> None:
    assert refused({**LEAST, **change}) == told


def test_every_missing_setting_is_told_at_once() -> None:
    assert refused({}) == "model is not set; cache is not set; output_dir is not set"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("kto.beta=0.2", {"kto": {"beta": 0.2}}),
        ("kto.learning_rate=5e-7", {"kto": {"learning_rate": 5e-7}}),
        ("lora=null", {"lora": None}),
        ("weights={desirable: 1.5}", {"weights": {"desirable": 1.5}}),
        ("model=a=b", {"model": "a=b"}),
    ],
)
def test_a_setting_is_applied_by_its_dotted_name(assignment: str, expected: dict[str, object]) -> None:
    settings: dict[str, object] = {}
    apply_setting(settings, assignment)
    assert settings == expected


@pytest.mark.parametrize("assignment", ["kto.beta", "=1", "kto=[", "seed.x=1"])
def test_a_setting_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError):
        apply_setting({"seed": 1}, assignment)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"a: [", b"\xff\xfe\xfa", b"1: 2\n"])
def test_a_file_that_holds_no_settings_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"train\.yaml"):
        read_config(path)


def test_of_a_file_that_is_not_there_the_one_that_was_meant_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"trian\.yaml does not exist") as raised:
        read_config(tmp_path / "trian.yaml")
    assert raised.value.hint == f"did you mean {tmp_path / 'train.yaml'}?"
    with pytest.raises(ConfigError, match="cannot read") as raised:
        read_config(tmp_path)
    assert raised.value.hint


def test_an_empty_file_has_no_settings(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").touch()
    assert read_config(tmp_path / "train.yaml") == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"learnin_rate": 1.0}, "unknown key kto.learnin_rate; did you mean kto.learning_rate?"),
        ({"learning_rate": "1e-6"}, "kto.learning_rate must be float, not '1e-6'"),
        ({"num_train_epochs": True}, "kto.num_train_epochs must be float, not True"),
        ({"gradient_accumulation_steps": 1.5}, "kto.gradient_accumulation_steps must be int, not 1.5"),
        ({"lr_scheduler_kwargs": 3}, "kto.lr_scheduler_kwargs must be dict or str or null, not 3"),
        ({"max_length": 512}, "kto.max_length is decided elsewhere"),
        ({"auto_find_batch_size": True}, "kto.auto_find_batch_size is decided elsewhere"),
        ({"desirable_weight": 1.0}, "kto.desirable_weight is decided elsewhere"),
        ({"data_seed": 7}, "kto.data_seed is decided elsewhere"),
    ],
)
def test_the_fields_of_trl_are_checked(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_fields(given, KTOConfig, "kto")
    assert raised.value.what == told


def test_good_fields_pass() -> None:
    check_fields({"learning_rate": 1, "beta": 0.1, "loss_type": "kto", "warmup_steps": 0.1}, KTOConfig, "kto")
    check_fields({"fsdp": True, "fsdp_config": {"version": 2}}, KTOConfig, "kto")  # as transformers' text has it
    check_fields({"r": 16, "target_modules": ["q_proj"], "lora_dropout": 0.0}, LoraConfig, "lora")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"per_device_train_batch_size": 0}, "kto.per_device_train_batch_size must be at least 1, not 0"),
        ({"gradient_accumulation_steps": 0}, "kto.gradient_accumulation_steps must be at least 1, not 0"),
        ({"dataloader_num_workers": -1}, "kto.dataloader_num_workers must be at least 0, not -1"),
        ({"dataloader_prefetch_factor": -2}, "kto.dataloader_prefetch_factor must be at least 1, not -2"),
        ({"neftune_noise_alpha": -5.0}, "kto.neftune_noise_alpha must be at least 0, not -5.0"),
        ({"neftune_noise_alpha": math.nan}, "kto.neftune_noise_alpha must be at least 0, not nan"),
        ({"weight_decay": -0.1}, "kto.weight_decay must be at least 0, not -0.1"),
        ({"dataloader_in_order": False}, "kto.dataloader_in_order is decided elsewhere"),
        ({"learning_rate": -1e-6}, "kto.learning_rate must be a number above 0, not -1e-06"),
        ({"num_train_epochs": float("inf")}, "kto.num_train_epochs must be a number above 0, not inf"),
        ({"beta": 0}, "kto.beta must be a number above 0, not 0"),
        ({"max_steps": 0}, "kto.max_steps must be at least 1, or -1 for whole epochs, not 0"),
        ({"loss_type": "dpo"}, "kto.loss_type must be kto or apo_zero_unpaired, not 'dpo'"),
        ({"model_init_kwargs": {"dtype": "float99"}}, "kto.model_init_kwargs.dtype: torch has no type 'float99'"),
        ({"model_init_kwargs": "{}"}, "kto.model_init_kwargs must be a mapping, not '{}'"),
        ({"optim_args": "momentum"}, "kto.optim_args must be name=value, with commas between, not 'momentum'"),
        ({"optim_args": "a=1=2"}, "kto.optim_args must be name=value, with commas between, not 'a=1=2'"),
        ({"optim_args": "a=1,"}, "kto.optim_args must be name=value, with commas between, not 'a=1,'"),
        ({"metric_for_best_model": "f1"}, "kto.metric_for_best_model is f1, which no evaluation measures"),
        ({"save_strategy": "best"}, "kto.save_strategy is best, and no kto.metric_for_best_model says by what"),
        ({"accelerator_config": {1: True}}, "unknown key kto.accelerator_config.1"),
        (
            {"accelerator_config": {"even_batch": True}},
            "unknown key kto.accelerator_config.even_batch; did you mean kto.accelerator_config.even_batches?",
        ),
    ],
)
def test_a_value_that_no_training_can_be_made_with_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_library_fields(TrainConfig(**LEAST, kto=given))
    assert raised.value.what == told


def test_a_number_at_its_bound_passes() -> None:
    least = {"per_device_train_batch_size": 1, "dataloader_num_workers": 0, "max_steps": -1, "beta": 1e-9}
    least |= {"optim_args": "momentum=0.9, nesterov=true"}
    assert list(value_problems(least)) == []


@pytest.mark.parametrize(
    "kto",
    [
        {"metric_for_best_model": "eval_rewards/margins"},
        {"metric_for_best_model": "loss", "save_strategy": "best"},
        {"load_best_model_at_end": True, "save_strategy": "best"},  # by the loss, as transformers has it
    ],
)
def test_what_the_best_model_can_be_known_by_passes(kto: dict[str, object]) -> None:
    assert list(value_problems(kto)) == []


def test_an_unknown_key_without_a_neighbour_is_told_alone() -> None:
    assert unknown_key("zzz", ["alpha", "beta"], within="kto") == "unknown key kto.zzz"


def test_the_page_on_training_has_every_setting_and_its_example_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
    told = {name for line in page.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+)`", line)}
    assert set(TrainConfig.model_fields) <= told
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = make_config(yaml.safe_load(example))
    assert config.kto["learning_rate"] == 1e-6

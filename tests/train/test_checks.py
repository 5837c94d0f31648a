from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caches import make_cache, text_records
from conftest import TinyModel, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_loss_equality import make_args
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig

from kto_data.balance import Verdict
from kto_data.cli import main
from kto_data.errors import CacheError, ConfigError, InputError, ModelError
from kto_data.manifest import FORMAT_VERSION, MANIFEST_NAME
from kto_data.processor import load_processor
from kto_train import CachedKTOTrainer, checks, load_cache
from kto_train.checkpoint import seal
from kto_train.config import TrainConfig, Weights
from kto_train.plan import make_plan


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_auto_changes_one_weight_by_the_least_that_balances(num_desirable: int, num_undesirable: int) -> None:
    found = checks.chosen_weights("auto", num_desirable, num_undesirable)
    assert found.verdict is Verdict.BALANCED
    assert 1.0 in (found.desirable_weight, found.undesirable_weight)
    assert min(found.desirable_weight, found.undesirable_weight) >= 1.0
    plain = num_desirable / num_undesirable
    assert found.balance is not None
    if plain < 0.99:
        assert found.balance == pytest.approx(1.0, rel=2e-3)
    elif plain > 1.35:
        assert found.balance == pytest.approx(4 / 3, rel=2e-3)


def test_none_and_given_weights_are_left_as_they_are() -> None:
    assert checks.chosen_weights("none", 9, 1).balance == 9
    given = checks.chosen_weights(Weights(desirable=0.5, undesirable=2.0), 9, 1)
    assert (given.desirable_weight, given.undesirable_weight) == (0.5, 2.0)


def test_one_label_alone_has_no_balance() -> None:
    assert checks.chosen_weights("auto", 9, 0).verdict is Verdict.UNDEFINED


def make_config(folder: Path, **settings: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {"model": str(folder / "model"), "cache": str(folder / "cache"), "output_dir": str(folder / "run"), **settings}
    )


@pytest.mark.parametrize("key", ["per_device_train_batch_size", "per_device_eval_batch_size"])
def test_a_batch_of_one_is_refused_unless_the_loss_has_no_kl_term(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"kto\.{key} is 1"):
        checks.check_kto_batch(make_config(tmp_path, kto={key: 1}))
    checks.check_kto_batch(make_config(tmp_path, kto={key: 1, "loss_type": "apo_zero_unpaired"}))


@pytest.mark.parametrize(
    "kto", [{"eval_strategy": "steps"}, {"do_eval": True}, {"eval_steps": 10}, {"load_best_model_at_end": True}]
)
def test_evaluation_without_an_eval_split_names_the_key_that_asks(
    kto: dict[str, object], tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4)))
    with pytest.raises(ConfigError, match=rf"kto\.{next(iter(kto))} asks for evaluation"):
        checks.check_evaluation(make_config(tmp_path, kto=kto), cache.manifest)
    checks.check_evaluation(make_config(tmp_path, kto={"eval_strategy": "no"}), cache.manifest)


@pytest.mark.parametrize("kto", [{"do_eval": True}, {"eval_steps": 10}, {"eval_on_start": True}])
def test_evaluation_that_nothing_says_when_to_do_names_the_key_that_asks(
    kto: dict[str, object], tiny_model: TinyModel, tmp_path: Path
) -> None:
    """transformers would leave it out in silence, or end with a traceback once the reference is computed."""
    cache = make_cache(tmp_path, tiny_model("text"), text_records(4), text_records(4, first=50))
    config = make_config(tmp_path, model=str(tiny_model("text")), kto=kto)
    told = rf"kto\.{next(iter(kto))} asks for evaluation, and without kto\.eval_strategy nothing is evaluated"
    with pytest.raises(ConfigError, match=told):
        make_plan(config)
    checks.check_evaluation(make_config(tmp_path, kto={**kto, "eval_strategy": "steps"}), load_cache(cache).manifest)


@pytest.mark.parametrize(
    ("metric", "label"),
    [("rewards/rejected", True), ("eval_logps/chosen", False), ("rewards/margins", True), ("rewards/margins", False)],
)
def test_a_metric_of_rows_that_the_eval_split_has_not_is_refused(
    metric: str, label: bool, tiny_model: TinyModel, tmp_path: Path
) -> None:
    rows = [record | {"label": label} for record in text_records(4, first=50)]
    manifest = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4), rows)).manifest
    asks = {"eval_strategy": "steps", "metric_for_best_model": metric}
    told = f"metric_for_best_model is {metric}, and no row of the eval split has the label {str(not label).lower()}"
    with pytest.raises(ConfigError, match=told):
        checks.check_evaluation(make_config(tmp_path, kto=asks), manifest)
    checks.check_evaluation(make_config(tmp_path, kto={**asks, "metric_for_best_model": "kl"}), manifest)


@pytest.mark.parametrize(
    ("kto", "told"),
    [
        ({"save_strategy": "epoch"}, "requires the save and eval strategy to match"),
        ({"eval_steps": 3, "save_steps": 4}, "a round multiple of the evaluation steps, but found 4"),
        ({"metric_for_best_model": "eval_f1"}, r"kto\.metric_for_best_model is eval_f1, which no evaluation measures"),
    ],
)
def test_a_best_model_that_cannot_be_known_is_refused_in_one_line_before_a_weight_is_read(
    kto: dict[str, object], told: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(4), text_records(4, first=50))
    asks = {"load_best_model_at_end": True, "eval_strategy": "steps", **kto}
    with pytest.raises(ConfigError, match=told) as raised:
        make_plan(make_config(tmp_path, cache=str(cache), model=str(tiny_model("text")), kto=asks))
    assert "\n" not in raised.value.what


def test_the_best_of_spread_weights_is_not_looked_for_in_checkpoints_without_them(tmp_path: Path) -> None:
    kto: dict[str, object] = {"fsdp": True, "save_only_model": True, "load_best_model_at_end": True}
    with pytest.raises(ConfigError, match=r"kto\.load_best_model_at_end needs whole checkpoints"):
        checks.check_strategy(make_config(tmp_path, kto=kto))
    checks.check_strategy(make_config(tmp_path, kto={**kto, "save_only_model": False}))


def test_settings_of_fsdp_without_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kto\.fsdp_config is given without kto\.fsdp"):
        checks.check_strategy(make_config(tmp_path, kto={"fsdp_config": {"version": 2}}))
    checks.check_strategy(make_config(tmp_path, kto={"fsdp_config": {"version": 2}, "fsdp": True}))


@pytest.mark.parametrize("asks", [{"eval_strategy": "steps"}, {"eval_on_start": True}])
def test_evaluation_that_cannot_be_is_refused_in_a_script_too(
    asks: dict[str, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4)))
    args = make_args(tmp_path / "run", precompute_ref_log_probs=True, **asks)
    with pytest.raises(ConfigError, match=f"{next(iter(asks))} asks for evaluation, and "):
        CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=args)
    assert not (cache.path / "reference").exists()


@pytest.mark.parametrize("key", ["auto_find_batch_size", "dataloader_drop_last"])
def test_what_rows_in_groups_cannot_do_is_refused_in_a_script_too(
    key: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    cache = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4)))
    with pytest.raises(ConfigError, match=f"{key} does not go with rows in KL groups"):
        CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=make_args(tmp_path / "run", **{key: True}))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_eval_split_too_small_for_groups_is_refused_before_anything_is_computed(
    num_processes: int, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KTOConfig, "world_size", num_processes)
    num_rows = 2 * num_processes - 1
    cache = load_cache(make_cache(tmp_path, tiny_model("text"), text_records(4), text_records(num_rows, first=50)))
    told = f"^the eval split: {num_rows} rows cannot be shared by {num_processes} devices"
    asks: dict[str, object] = {"eval_strategy": "steps"}
    with pytest.raises(ConfigError, match=told):
        make_plan(make_config(tmp_path, model=str(tiny_model("text")), kto=asks))
    args = make_args(tmp_path / "run", precompute_ref_log_probs=True, **asks)
    with pytest.raises(ConfigError, match=told):
        CachedKTOTrainer(str(tiny_model("text")), cache=cache, args=args)
    assert not (cache.path / "reference").exists()


def test_a_drawn_eval_split_is_one_to_evaluate_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    data, cache = write_jsonl(tmp_path / "all.jsonl", text_records(20)), tmp_path / "cache"
    options = ["--model", str(tiny_model("text")), "--output", str(cache), "--eval-fraction", "0.3", "--jobs", "1"]
    assert main(["preprocess", str(data), *options]) == 0
    assert set(load_cache(cache)) == {"train", "eval"}
    asks: dict[str, object] = {"eval_strategy": "steps"}
    checks.check_evaluation(make_config(tmp_path, kto=asks), load_cache(cache).manifest)
    config = tmp_path / "train.yaml"
    config.write_text(json.dumps({"cache": str(cache), "kto": asks}))
    assert main(["validate", str(data), "--train-config", str(config), "--select", "KTO703"]) == 0


def test_an_output_with_another_run_is_refused_unless_it_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another run"):
        checks.check_output(make_config(tmp_path))
    checks.check_output(make_config(tmp_path, resume="auto"))


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match="is not a folder"):
        checks.check_output(make_config(tmp_path))


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="has no weights"):
        checks.check_weights_are_there(str(tmp_path / "model"))


def test_a_model_that_trl_cannot_score_is_refused_without_its_weights(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("llama4"), text_records(4))
    config = make_config(tmp_path, model=str(tiny_model("llama4")), cache=str(cache))
    with pytest.raises(ModelError, match=r"^Llama4ForConditionalGeneration has no part without its language head"):
        make_plan(config)


@pytest.mark.parametrize(
    ("kto", "num_kept", "bytes_a_weight"),
    [
        ({"max_steps": 1}, 1, 3 * 4),  # TRL reads any file in full
        ({"max_steps": 1, "model_init_kwargs": {"dtype": "bfloat16"}}, 1, 3 * 2),
        ({"max_steps": 1, "model_init_kwargs": {"dtype": "auto"}}, 1, 3 * 2),
        ({"max_steps": 1, "save_only_model": True}, 1, 4),
        ({"max_steps": 10, "save_steps": 3}, 4, 3 * 4),
        ({"max_steps": 10, "save_steps": 0.25}, 4, 3 * 4),
        ({"max_steps": 10, "save_steps": 0}, 1, 3 * 4),
        ({"max_steps": 10, "save_steps": 1, "save_total_limit": 2}, 3, 3 * 4),  # the newest is whole before one goes
        ({"num_train_epochs": 2, "save_strategy": "epoch"}, 2, 3 * 4),
    ],
)
def test_what_checkpoints_will_take_is_said_where_the_disk_has_less(
    kto: dict[str, Any],
    num_kept: int,
    bytes_a_weight: int,
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("text"), dtype="bfloat16")
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model("text")).save_pretrained(tmp_path / "model")
    make_cache(tmp_path, tmp_path / "model", text_records(4))
    needed = num_kept * bytes_a_weight * sum(weight.numel() for weight in model.parameters())

    def warned(free: float) -> list[str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return [told for told in make_plan(make_config(tmp_path, kto=kto)).warnings if "GiB are free" in told]

    (told,) = warned(0.9 * needed)
    assert told.startswith("a checkpoint takes" if num_kept == 1 else f"{num_kept} checkpoints, ")
    assert ("kto.save_total_limit keeps fewer" in told) == (num_kept > 1 and "save_total_limit" not in kto)
    assert warned(1.1 * needed) == []


@pytest.mark.parametrize(
    ("kto", "there", "resume", "num_needed"),
    [
        ({"save_steps": 2}, [2, 4], "auto", 3),  # 6, 8, 10
        ({"save_steps": 2}, [2, 3], "auto", 4),  # stopped at 3
        ({"save_steps": 4}, [4, 8], "auto", 1),  # the last step
        ({"save_steps": 2}, [2, 4, 6], "checkpoint-4", 3),
        ({"save_steps": 2}, [10], "auto", 0),
        ({"save_steps": 1, "save_total_limit": 2}, [2, 3], "auto", 1),  # the older one goes for it
        ({"save_steps": 1, "save_total_limit": 2}, [3], "auto", 2),
        ({"save_steps": 1, "save_total_limit": 1}, [2, 3, 4], "auto", 1),  # of a run that kept more
        ({"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 4}, [1, 2], "auto", 2),
        ({"save_strategy": "best", "metric_for_best_model": "loss", "eval_strategy": "steps"}, [2], "auto", 4),
    ],
)
def test_checkpoints_that_are_there_are_not_counted_among_those_to_come(
    kto: dict[str, Any],
    there: list[int],
    resume: str,
    num_needed: int,
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, run = tiny_model("text"), tmp_path / "run"
    cache = make_cache(tmp_path, model, text_records(4), text_records(4, first=50))
    for step in there:
        (run / f"checkpoint-{step}").mkdir(parents=True)
        seal(run / f"checkpoint-{step}", step)
    (run / "checkpoint-9").mkdir()  # that was not finished
    weights = AutoModelForCausalLM.from_pretrained(model).parameters()
    needed = num_needed * 3 * 4 * sum(weight.numel() for weight in weights)
    given = {
        "cache": str(cache),
        "model": str(model),
        "resume": resume if resume == "auto" else str(run / resume),
        "kto": {"max_steps": 10, "eval_steps": 2, "eval_strategy": "steps", "per_device_eval_batch_size": 4, **kto},
    }

    def warned(free: float) -> list[str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return [told for told in make_plan(make_config(tmp_path, **given)).warnings if "GiB are free" in told]

    assert warned(1.1 * needed) == []
    assert len(warned(0.9 * needed)) == (num_needed > 0)
    if num_needed > 1:
        assert warned(0.9 * needed)[0].startswith(f"{num_needed} checkpoints beside the {len(there)} that are there ")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match="are pickles, which run what they say when they are read"):
        checks.check_weights_are_there(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    checks.check_weights_are_there(str(tmp_path))


def test_a_cache_of_another_model_is_refused_by_name(tiny_model: TinyModel, tmp_path: Path) -> None:
    manifest = load_cache(make_cache(tmp_path, tiny_model("llava"), text_records(4))).manifest
    checks.check_cache_and_model(manifest, load_processor(str(tiny_model("llava"))))
    with pytest.raises(CacheError, match=r"made for a model that takes images, and .* takes text alone"):
        checks.check_cache_and_model(manifest, load_processor(str(tiny_model("text"))))
    theirs = manifest.parts["tokenizer"]
    with pytest.raises(CacheError, match=rf"another tokenizer: {theirs} then, [0-9a-f]+ in "):
        checks.check_cache_and_model(manifest, load_processor(str(tiny_model("gemma3"))))


@pytest.mark.parametrize(
    ("part", "file", "before", "after"),
    [
        ("tokenizer", "tokenizer.json", '"lstrip": false', '"lstrip": true'),
        ("chat_template", "chat_template.jinja", "{", " {"),
        ("image_processor", "processor_config.json", '"do_convert_rgb": true', '"do_convert_rgb": false'),
    ],
)
def test_a_model_that_was_edited_is_refused_with_both_values(
    part: str, file: str, before: str, after: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model("llava"), tmp_path / "model")
    manifest = load_cache(make_cache(tmp_path, model, text_records(4))).manifest
    text = (model / file).read_text(encoding="utf-8")
    (model / file).write_text(text.replace(before, after, 1), encoding="utf-8")
    now = load_processor(str(model))
    told = f"another {part.replace('_', ' ')}: {manifest.parts[part]} then, {now.fingerprint_parts()[part]} in "
    with pytest.raises(CacheError, match=told):
        checks.check_cache_and_model(manifest, now)


def test_a_cache_of_another_format_is_refused_with_both_versions(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(4))
    manifest = json.loads((cache / MANIFEST_NAME).read_bytes())
    (cache / MANIFEST_NAME).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CacheError, match=f"has format version 99, and this ktodata reads {FORMAT_VERSION}"):
        load_cache(cache)


def test_the_supported_versions_are_those_that_the_package_asks_for() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = settings["project"]["optional-dependencies"]
    asked = [Requirement(text) for text in (*extras["preprocess"], *extras["train"])]
    found = {one.name: one.specifier for one in asked if one.name in checks.SUPPORTED}
    assert found == {name: SpecifierSet(text) for name, text in checks.SUPPORTED.items()}


def test_a_package_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_installed()
    monkeypatch.setitem(checks.SUPPORTED, "trl", ">=99")
    with pytest.raises(ConfigError, match=r"trl \S+ is installed, and supported is >=99"):
        checks.check_installed()


def test_a_tracker_that_is_not_there_is_refused_by_name() -> None:
    checks.check_trackers(["none"])
    with pytest.raises(ConfigError, match=r"kto\.report_to names dvclive, which is not installed") as raised:
        checks.check_trackers(["all", "dvclive"])
    assert raised.value.hint.startswith("pip install dvclive; ")

"""`ktodata train` from the command line: files, what is said, exit codes."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import image_records, make_cache, text_records
from conftest import TinyModel, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from kto_data.cli import main
from kto_data.errors import ConfigError, ExitCode, InputError
from kto_train.config import TrainConfig
from kto_train.monitor import read_metrics
from kto_train.train import run

pytestmark = pytest.mark.slow


def make_config(cache: Path, model: Path, output: Path, **overrides: Any) -> TrainConfig:
    kto = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "dataloader_num_workers": 0, "max_steps": 4}
    kto |= overrides.pop("kto", {})
    return TrainConfig(cache=str(cache), model=str(model), output_dir=str(output), kto=kto, **overrides)


TIMES = ("_runtime", "_per_second", "data_wait_share", "warnings")


def metrics(output: Path) -> list[dict[str, Any]]:
    """What was logged, all but what the time of day decides."""
    return [{key: entry[key] for key in entry if not key.endswith(TIMES)} for entry in read_metrics(output)]


@pytest.fixture
def text_cache(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return make_cache(tmp_path, tiny_model("text"), text_records(12))


def test_from_records_to_a_model_that_loads(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, cache, output = str(tiny_model("llava")), str(tmp_path / "cache"), str(tmp_path / "run")
    data = str(write_jsonl(tmp_path / "data.jsonl", image_records(tmp_path, 12)))
    assert main(["preprocess", data, "--model", model, "--output", cache, "--jobs", "1"]) == ExitCode.OK
    options = ["--cache", cache, "--model", model, "--output", output, "--batch-size", "4", "--epochs", "1"]
    assert main(["train", *options, "--learning-rate", "1e-3"]) == ExitCode.OK
    said = capsys.readouterr().err
    assert "groups     3 of 4 rows" in said
    assert "step 3/3: loss" in said
    AutoProcessor.from_pretrained(output)
    trained = AutoModelForImageTextToText.from_pretrained(output).state_dict()
    base = AutoModelForImageTextToText.from_pretrained(model).state_dict()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    assert [entry["step"] for entry in read_metrics(Path(output)) if "loss" in entry] == [1, 2, 3]
    assert (Path(output) / "plots" / "overview.png").stat().st_size > 1000
    record = json.loads((Path(output) / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["matters"]["cache"] == json.loads((Path(cache) / "manifest.json").read_text())["fingerprint"]


def test_a_dry_run_loads_no_weights_and_writes_nothing(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    said: list[str] = []
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", kto={"max_steps": -1})
    assert run(config, dry_run=True, say=said.append) == ExitCode.OK
    assert said[:7] == [
        f"model      {config.model}, all weights",
        f"cache      {config.cache}: 12 rows, 8 desirable",
        "groups     3 of 4 rows, 11% padding (18% in random groups)",
        "steps      9, of 1 group each",
        "weights    desirable 1, undesirable 1.5: b = 1.33",
        "reference  cached",
        "warning: a learning rate of 0.001 is outside the usual 5e-07 to 5e-06",
    ]
    assert said[7].startswith("memory     MiB a device, estimated for the largest batch: 4 x ")
    assert [line.split("  ")[0] for line in said[9:12]] == ["this run", "ZeRO-3, offloaded", "LoRA, r = 16"]
    assert not (tmp_path / "run").exists()
    assert not (text_cache / "reference").exists()


def test_groups_of_any_lengths_are_had_where_they_are_asked_for(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    said: list[str] = []
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", group_by_length=False)
    assert run(config, dry_run=True, say=said.append) == ExitCode.OK
    assert "groups     3 of 4 rows, 18% padding" in said


def stopping_at(step: int, number: signal.Signals) -> tuple[Callable[[str], None], list[str]]:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith(f"step {step}/"):
            os.kill(os.getpid(), number)

    return say, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_gone_on_with(
    number: signal.Signals, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    whole = make_config(text_cache, tiny_model("text"), tmp_path / "whole")
    assert run(whole, dry_run=False, say=lambda line: None) == ExitCode.OK
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run")
    say, said = stopping_at(2, number)
    assert run(config, dry_run=False, say=say) == ExitCode.INTERRUPTED
    assert said[-1] == f"interrupted; to go on: ktodata train --config {tmp_path}/run/train.yaml --resume auto"
    assert (tmp_path / "run" / "plots" / "overview.png").exists()
    assert main(["train", "--config", str(tmp_path / "run" / "train.yaml"), "--resume", "auto"]) == ExitCode.OK
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")]
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_run_is_not_gone_on_with_under_other_settings(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", kto={"max_steps": 1, "save_steps": 1})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    again = ["train", "--config", str(tmp_path / "run" / "train.yaml"), "--resume", "auto"]
    assert main([*again, "--set", "kto.beta=0.2", "--batch-size", "2"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "kto.per_device_train_batch_size was 4 and is 2" in said
    assert "kto.beta was None and is 0.2" in said


def test_a_run_whose_checkpoints_hold_the_model_alone_says_so_and_is_not_gone_on_with(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would go on with a fresh optimizer and schedule, in silence."""
    said: list[str] = []
    kto = {"max_steps": 2, "save_steps": 1, "save_only_model": True}
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", kto=kto)
    assert run(config, dry_run=False, say=said.append) == ExitCode.OK
    told = "warning: kto.save_only_model: this run cannot be gone on with, its checkpoints hold the model alone"
    assert told in said
    for resume in ("auto", str(tmp_path / "run" / "checkpoint-1")):
        assert main(["train", "--config", str(tmp_path / "run" / "train.yaml"), "--resume", resume]) == ExitCode.USAGE
        assert re.search(r"error: .*/checkpoint-[12] holds the model alone: ", capsys.readouterr().err)


def test_a_run_is_gone_on_with_from_the_last_checkpoint_that_is_more_than_the_model(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    kto = {"lr_scheduler_type": "constant"}  # whatever the number of steps is
    made = {name: make_config(text_cache, tiny_model("text"), tmp_path / name, kto=kto) for name in ("whole", "run")}
    run(made["whole"], dry_run=False, say=lambda line: None)
    said: list[str] = []
    for steps, model_alone in ((2, False), (3, True), (4, False)):
        kto = made["run"].kto | {"max_steps": steps, "save_only_model": model_alone}
        config = made["run"].model_copy(update={"kto": kto, "resume": "auto"})
        assert run(config, dry_run=False, say=said.append) == ExitCode.OK
    assert f"{tmp_path}/run/checkpoint-3 is passed over: it holds the model alone" in said
    assert said.count(f"resumed from {tmp_path}/run/checkpoint-2, step 2") == 2
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_run_is_not_gone_on_with_from_other_weights(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model("text"), model)
    config = make_config(text_cache, model, tmp_path / "run", kto={"max_steps": 1, "save_steps": 1})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    shutil.copy(tmp_path / "run" / "model.safetensors", model)
    assert main(["train", "--config", str(tmp_path / "run" / "train.yaml"), "--resume", "auto"]) == ExitCode.USAGE
    assert re.search(r"cannot be gone on with: weights was '\w+' and is '\w+'$", capsys.readouterr().err, re.MULTILINE)


def test_an_adapter_is_trained_and_saved_alone_and_loads(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, output = tiny_model("llava"), tmp_path / "run"
    cache = make_cache(tmp_path, model, image_records(tmp_path, 8))
    config = make_config(cache, model, output, lora={"r": 2}, kto={"max_steps": 1})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    assert not (output / "model.safetensors").exists()
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(model), output)
    assert any(bool(weights.any()) for name, weights in adapted.named_parameters() if "lora_B" in name)
    AutoProcessor.from_pretrained(output)
    card = (output / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert f"An adapter for `{model}`" in card


def test_what_cannot_be_written_beside_the_model_is_a_warning(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "plots").write_text("a file in the place of the folder")
    for name in ("report.html", "README.md", "metrics.jsonl"):
        (output / name).mkdir()
    said: list[str] = []
    config = make_config(text_cache, tiny_model("text"), output, kto={"max_steps": 2})
    assert run(config, dry_run=False, say=said.append) == ExitCode.OK
    warned = {line.split(" could not be written")[0] for line in said if "could not be written" in line}
    assert warned == {
        f"warning: {name}" for name in ("metrics.jsonl", "plots", "report.html", "README.md", "the model card")
    }
    AutoModelForCausalLM.from_pretrained(output)
    assert json.loads((output / "run.json").read_text())["status"] == "finished"


def test_a_disk_with_room_for_the_model_and_not_for_the_last_checkpoint_holds_the_model(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = make_config(text_cache, tiny_model("text"), output, reference="live", kto={"max_steps": 1})
    with largest_file(200_000), pytest.raises(InputError, match=f"cannot write .*{output}"):
        run(config, dry_run=False, say=lambda line: None)
    AutoModelForCausalLM.from_pretrained(output)
    assert list(output.glob("checkpoint-*")) == []
    assert json.loads((output / "run.json").read_text())["status"] == "failed"


def test_code_of_a_model_is_run_only_where_it_is_asked_for(
    text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model, trace = shutil.copytree(tiny_model("text"), tmp_path / "model"), tmp_path / "trace"
    settings = json.loads((model / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForCausalLM": "its_code.ItsModel"}
    (model / "config.json").write_text(json.dumps(settings))
    (model / "its_code.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nfrom transformers import LlamaForCausalLM as ItsModel\n"
    )
    config = make_config(text_cache, model, tmp_path / "run", kto={"max_steps": 1})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK
    assert not trace.exists()


def test_what_a_data_worker_finds_wrong_is_one_line(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("llava"), image_records(tmp_path, 8))
    (tmp_path / "images" / "3-1.png").unlink()
    kto = {"dataloader_num_workers": 1}
    config = make_config(cache, tiny_model("llava"), tmp_path / "run", reference="live", kto=kto)
    with pytest.raises(InputError) as raised:
        run(config, dry_run=False, say=lambda line: None)
    assert raised.value.what == f"train.jsonl:4: the image {tmp_path}/images/3-1.png is not there"


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [500, 100_000])
def test_a_full_disk_is_one_line(limit: int, text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", reference="live", kto={"max_steps": 1})
    with largest_file(limit), pytest.raises(InputError, match=f"cannot write .*{tmp_path}/run"):
        run(config, dry_run=False, say=lambda line: None)


@pytest.mark.parametrize(
    ("kto", "told"),
    [
        ({"fsdp": "full_shard"}, "kto.fsdp spreads the weights over devices, and this machine has none"),
        ({"activation_offloading": True}, "to the processor, and this machine has none"),
        ({"model_init_kwargs": {"number": 3}}, "kto.model_init_kwargs: .*unexpected keyword argument 'number'"),
        ({"accelerator_config": "none.json"}, "kto: none.json: No such file or directory"),
        ({"lr_scheduler_kwargs": {"number": 3}}, "kto.lr_scheduler_kwargs, of linear: .*argument 'number'"),
        ({"optim": "apollo_adamw"}, "a setting under kto needs another package: .*apollo_torch"),
        ({"push_to_hub": True}, "the hub cannot be reached: .*offline mode"),
    ],
)
def test_what_trl_finds_wrong_with_a_setting_is_one_line(
    kto: dict[str, Any], told: str, text_cache: Path, tiny_model: TinyModel, tmp_path: Path
) -> None:
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", reference="live", kto=kto)
    with pytest.raises(ConfigError, match=told) as raised:
        run(config, dry_run=False, say=lambda line: None)
    assert "\n" not in raised.value.what


def test_no_momentum_is_written_as_an_integer_too(text_cache: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    config = make_config(text_cache, tiny_model("text"), tmp_path / "run", kto={"adam_beta1": 0, "max_steps": 1})
    assert run(config, dry_run=False, say=lambda line: None) == ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "model is not set; cache is not set; output_dir is not set"),
        (["--config", "none.yaml"], "none.yaml does not exist"),
        (["--set", "kto"], "--set kto: not of the form key=value"),
        (["--cache", "none", "--model", "m", "--output", "o"], "none is not a cache: it has no manifest.json"),
        (["--cache", "c", "--model", "m", "--output", "o", "--set", "betas=1"], "unknown key betas"),
        (["--set", "kto.max_steps=9", "--max-steps", "8"], "kto.max_steps is given twice: by --set, and by an option"),
        (["--set", "kto.per_device_eval_batch_size=1", "--batch-size", "2"], "kto.per_device_eval_batch_size is given"),
    ],
)
def test_wrong_use_is_one_line_and_a_hint(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(f"ktodata: error: {told}")

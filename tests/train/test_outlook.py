"""A training config seen from `ktodata validate`: the fields of TRL without TRL, and what the training itself says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from caches import make_cache, text_records
from conftest import TinyModel, make_record, write_jsonl
from peft import LoraConfig
from trl import KTOConfig

from kto_data.check import DEFAULT_CODES, CheckSettings
from kto_data.cli import main
from kto_data.errors import ConfigError
from kto_data.finding import Finding, Severity
from kto_data.image import PixelBudget
from kto_data.inputs import open_inputs
from kto_data.validate import validate
from kto_train.outlook import KTO_CLASSES, LORA_CLASSES, field_names, plan_of, read_plan

Found = list[tuple[str, int | None, str]]


def check(folder: Path, text: str, *, labels: tuple[int, int] = (6, 5), **settings: Any) -> list[Finding]:
    """What is found about the config `text` beside so many desirable and undesirable records."""
    config = folder / "train.yaml"
    config.write_text(text, encoding="utf-8")
    turns = [{"role": "user", "content": "Count."}]
    rows = [
        make_record(messages=[*turns, {"role": "assistant", "content": f"To {index}."}], label=index < labels[0])
        for index in range(sum(labels))
    ]
    data = write_jsonl(folder / "data.jsonl", rows)
    found: list[Finding] = []
    codes = DEFAULT_CODES | {"KTO706"}
    validate(open_inputs([str(data)]), CheckSettings(train_config=config, codes=codes, **settings), listen=found.extend)
    assert all(f.location.path == str(config) for f in found if f.code.startswith("KTO7"))
    return [f for f in found if f.code.startswith("KTO7")]


def placed(found: list[Finding]) -> Found:
    return [(f.code, f.location.line, f.location.pointer) for f in found]


@pytest.mark.parametrize(("classes", "dataclass"), [(KTO_CLASSES, KTOConfig), (LORA_CLASSES, LoraConfig)])
def test_fields_read_from_sources_are_those_of_the_class(classes: Any, dataclass: type) -> None:
    names = field_names(classes)
    assert names is not None
    assert set(names) == {field.name for field in dataclasses.fields(dataclass) if field.init}


def test_reading_a_config_loads_neither_torch_nor_trl(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("kto: {beta: 0.1}\nlora: {r: 8}\n")
    code = (
        "import json, sys; from pathlib import Path; from kto_data.training import read_train_plan;"
        "read_train_plan(Path(sys.argv[1]));"
        "print(json.dumps([name for name in ('torch', 'trl', 'transformers', 'peft') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_sound_config_has_no_findings(tmp_path: Path) -> None:
    text = yaml.safe_dump({"model": "m", "cache": "c", "output_dir": "o", "kto": {"learning_rate": 1e-6, "beta": 0.1}})
    assert check(tmp_path, text) == []


def test_every_unknown_key_is_told_at_its_line(tmp_path: Path) -> None:
    text = "model: m\nsede: 1\nkto:\n  beta: 0.1\n  leanring_rate: 1e-6\n  max_length: 9\nlora:\n  rank: 8\nseed: x\n"
    found = check(tmp_path, text)
    assert sorted(placed(found), key=str) == [
        ("KTO701", 2, "/sede"),
        ("KTO701", 5, "/kto/leanring_rate"),
        ("KTO701", 6, "/kto/max_length"),
        ("KTO701", 8, "/lora/rank"),
        ("KTO701", 9, "/seed"),
    ]
    told = {f.location.line: f.message for f in found}
    assert told[2] == "unknown key sede; did you mean seed?"
    assert "did you mean kto.learning_rate?" in told[5]
    assert "is decided elsewhere" in told[6]


def test_a_number_that_no_training_can_be_made_with_is_told_at_its_line(tmp_path: Path) -> None:
    found = check(tmp_path, "kto:\n  beta: 0.1\n  gradient_accumulation_steps: 0\n  loss_type: dpo\n")
    assert sorted(placed(found), key=str) == [
        ("KTO701", 3, "/kto/gradient_accumulation_steps"),
        ("KTO701", 4, "/kto/loss_type"),
    ]


def test_keys_of_a_library_that_is_not_installed_are_said_not_to_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kto_train.outlook.KTO_CLASSES", (("not_installed", "a.py", "KTOConfig"),))
    (finding,) = check(tmp_path, "kto: {leanring_rate: 1e-6}\n")
    assert (finding.code, finding.severity, finding.location.line) == ("KTO701", Severity.WARNING, 1)
    assert "not_installed is not installed" in finding.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kto:\n  per_device_train_batch_size: 1\n", [("KTO702", 2, "/kto/per_device_train_batch_size")]),
        ("kto: {per_device_eval_batch_size: 1}\n", [("KTO702", 1, "/kto/per_device_eval_batch_size")]),
        ("kto: {per_device_eval_batch_size: 1, loss_type: apo_zero_unpaired}\n", []),
        ("kto:\n  eval_strategy: steps\n  eval_steps: 5\n", [("KTO703", 2, "/kto/eval_strategy"),
                                                            ("KTO703", 3, "/kto/eval_steps")]),
        ("kto: {eval_strategy: 'no', do_eval: false}\n", []),
        ("\nkto: {learning_rate: 2e-5}\n", [("KTO706", 2, "/kto/learning_rate")]),
        ("kto: {learning_rate: 2e-5}\nlora: {r: 8}\n", []),
        ("weights: {desirable: 2.0}\n", [("KTO704", 1, "/weights")]),
        ("weights: auto\n", []),
        ("weights: none\n", []),
    ],
)  # fmt: skip
def test_what_a_config_asks_for_is_held_against_the_data(text: str, expected: Found, tmp_path: Path) -> None:
    assert placed(check(tmp_path, text)) == expected


def test_weights_are_judged_by_the_labels_of_the_data(tmp_path: Path) -> None:
    assert check(tmp_path, "weights: {undesirable: 3.0}\n", labels=(8, 2)) == []
    (finding,) = check(tmp_path, "weights: none\n", labels=(8, 2))
    assert (finding.code, finding.location.line) == ("KTO704", 1)
    assert "b = 4 is outside [1, 4/3]" in finding.message


def test_an_eval_split_is_enough(tmp_path: Path) -> None:
    assert check(tmp_path, "kto: {eval_strategy: steps}\n", has_eval_split=True) == []


def test_a_cache_without_an_eval_split_is_what_counts(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("text"), text_records(4))
    text = yaml.safe_dump({"cache": str(cache), "kto": {"eval_strategy": "steps"}})
    (finding,) = check(tmp_path, text, has_eval_split=True)
    assert finding.code == "KTO703"
    assert f"{cache} has no eval split" in finding.message


def test_a_cache_of_another_model_is_told_with_the_part_that_differs(tiny_model: TinyModel, tmp_path: Path) -> None:
    cache = make_cache(tmp_path, tiny_model("llava"), text_records(4))
    config = {"cache": str(cache), "model": str(tiny_model("llava"))}
    assert check(tmp_path, yaml.safe_dump(config)) == []
    (budget,) = check(tmp_path, yaml.safe_dump(config), budget=PixelBudget(max_pixels=1000))
    assert budget.message == "the cache was made with no image_max_pixels, and given is 1,000"
    found = check(tmp_path, yaml.safe_dump({**config, "model": str(tiny_model("gemma3"))}))
    assert {f.code for f in found} == {"KTO705"}
    assert any("another tokenizer" in f.message for f in found)
    assert any("another chat template" in f.message for f in found)
    (warning,) = check(tmp_path, yaml.safe_dump({**config, "model": str(tmp_path / "gone")}))
    assert (warning.code, warning.severity) == ("KTO705", Severity.WARNING)


def test_a_config_is_the_same_plan_however_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("weights: {undesirable: 2}\nkto: {per_device_train_batch_size: 4, do_eval: true}\nlora: {r: 1}\n")
    plan = read_plan(path)
    assert (plan.batch_size, plan.evaluates, plan.weights, plan.is_lora) == (4, ("kto.do_eval",), (1.0, 2.0), True)
    assert dataclasses.replace(plan, path="", lines={}) == plan_of(yaml.safe_load(path.read_text()))


def test_a_config_that_is_no_yaml_stops_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.yaml").write_text("kto: [")
    data = write_jsonl(tmp_path / "data.jsonl", [make_record()])
    assert main(["validate", str(data), "--train-config", str(tmp_path / "train.yaml"), "--isolated"]) == 2
    assert "train.yaml is not YAML" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        read_plan(tmp_path / "train.yaml")

"""Each rule against its fixtures in `tests/fixtures/rules`: whole runs of `validate` on real files.

A line is `{good: overrides}` (`make_record`; `turns`: its messages as pairs), `{base64: bytes}`, another mapping (the
record itself) or a string (the line itself); `{many: options}` is several lines (see `many`). Rows of both labels are
put behind the lines unless the case is `alone`. `eval`: the lines of a second file, the eval split.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TinyModel, make_image, make_record, write_jsonl
from PIL import Image

from kto_data.check import DEFAULT_CODES, CheckSettings
from kto_data.cli import main
from kto_data.finding import Finding
from kto_data.image import ImageCheck, PixelBudget
from kto_data.inputs import Input, open_inputs
from kto_data.rules import ALL_RULES
from kto_data.rules.base import Stage
from kto_data.triage import Suppression, Triage
from kto_data.validate import validate

FOLDER = Path(__file__).parent.parent / "fixtures" / "rules"
FIXTURES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))
}
CASES = [(code, name) for code, cases in FIXTURES.items() for name in cases]


def as_text(text: Any) -> Any:
    # Keys are written in pieces, lest somebody's scanner take this file for a leak.
    return "".join(text["joined"]) if isinstance(text, dict) else text


def as_line(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if item.keys() == {"base64"}:
        return base64.b64decode(item["base64"])
    if item.keys() == {"good"}:
        fields = dict(item["good"])
        if "turns" in fields:
            fields["messages"] = [{"role": role, "content": as_text(text)} for role, text in fields.pop("turns")]
        item = make_record(**fields)
    return json.dumps(item).encode()


def as_lines(items: list[Any]) -> list[bytes]:
    return [line for item in items for line in (many(**item["many"]) if "many" in item else [as_line(item)])]


def many(
    count: int, label: bool | None = None, ask: str = "Question {}?", say: str = "Answer {}.", **overrides: Any
) -> list[bytes]:
    """Records that differ in the number in their texts; labels take turns unless one is given."""
    rows = []
    for index in range(count):
        turns = [["user", ask.format(index)], ["assistant", say.format(index)]]
        rows.append(
            as_line({"good": {"turns": turns, "label": index % 2 == 0 if label is None else label, **overrides}})
        )
    return rows


def filling() -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": "Count."}]
    return [
        make_record(messages=[*turns, {"role": "assistant", "content": f"To {index}."}], label=index < 24)
        for index in range(44)
    ]


_IMAGE_OPTIONS = {"mode", "color", "noise_seed", "orientation"}


def build_image(path: Path, spec: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match spec:
        case {"empty": True}:
            path.touch()
        case {"text": text}:
            path.write_text(text, encoding="utf-8")
        case {"folder": True}:
            path.mkdir()
        case {"fifo": True}:
            os.mkfifo(path)
        case {"symlink": target}:
            path.symlink_to(target)
        case {"cut": True}:
            data = make_image(path).read_bytes()
            path.write_bytes(data[:-12])
        case {"bomb": True}:
            data = bytearray(make_image(path).read_bytes())
            data[16:24] = struct.pack(">II", 60_000, 60_000)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
            path.write_bytes(data)
        case {"frames": count}:
            frames = [Image.new("RGB", (64, 48), color) for color in ("red", "green", "blue")[:count]]
            frames[0].save(path, save_all=True, append_images=frames[1:])
        case {"as": suffix}:  # of another type than its name says
            make_image(path.with_suffix(f".{suffix}")).rename(path)
        case {"width": width, "height": height}:
            options = {name: spec[name] for name in spec.keys() & _IMAGE_OPTIONS}
            if isinstance(options.get("color"), list):
                options["color"] = tuple(options["color"])
            make_image(path, width, height, **options)
        case _:
            raise AssertionError(spec)


def model_settings(case: dict[str, Any], folder: Path, data: Path, tiny_model: TinyModel | None) -> dict[str, Any]:
    """`model`: a family of tiny models; `cache`: the one a cache is made with; both have a place in `train_config`."""
    settings = {name: case[name] for name in ("max_length", "batch_size", "has_eval_split") if name in case}
    model = None
    if "model" in case:
        assert tiny_model is not None
        model = settings["model"] = tiny_model(case["model"])
    if "cache" in case:
        assert tiny_model is not None
        cache = ["--model", str(tiny_model(case["cache"])), "--output", str(folder / "cache"), "--quiet"]
        assert main(["preprocess", str(data), *cache]) == 0
    if "train_config" in case:
        text = case["train_config"].replace("CACHE", str(folder / "cache")).replace("MODEL", str(model))
        settings["train_config"] = folder / "train.yaml"
        settings["train_config"].write_text(text, encoding="utf-8")
    return settings


def prepare_case(
    case: dict[str, Any], code: str, folder: Path, tiny_model: TinyModel | None = None
) -> tuple[tuple[Input, ...], CheckSettings, Triage]:
    """The files of a case, and what `validate` is to be called with."""
    rows = [*as_lines(case["lines"]), *([] if case.get("alone") else filling())]
    path = write_jsonl(folder / "data.jsonl", rows)
    if case.get("cut_end"):
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    for name, spec in case.get("images", {}).items():
        build_image(folder / name, spec)
    options: dict[str, Any] = {}
    if "dataset_info" in case:
        info = folder / "dataset_info.json"
        info.write_text(json.dumps({"mine": {"file_name": path.name, **case["dataset_info"]}}), encoding="utf-8")
        options = {"dataset_info": info, "dataset": "mine"}
    if "eval" in case:
        eval_path = write_jsonl(folder / "eval.jsonl", as_lines(case["eval"]))
        options = {"splits": [("eval", str(eval_path))]}
        case = {"has_eval_split": True, **case}
    settings = CheckSettings(
        codes=DEFAULT_CODES | {code},
        budget=PixelBudget(**case.get("budget", {})),
        images=ImageCheck(case.get("images_check", "header")),
        row_max_pixels=case.get("row_max_pixels"),
        **model_settings(case, folder, path, tiny_model),
    )
    entries = case.get("suppress", ())
    triage = Triage(
        suppressions=[
            Suppression(place="ktodata.toml", **{**entry, "codes": frozenset(entry["codes"])}) for entry in entries
        ]
    )
    return open_inputs([str(path)], **options), settings, triage


def run_case(case: dict[str, Any], code: str, folder: Path, tiny_model: TinyModel | None = None) -> list[Finding]:
    inputs, settings, triage = prepare_case(case, code, folder, tiny_model)
    found: list[Finding] = []
    validate(inputs, settings, triage=triage, listen=found.extend)
    return sorted(found, key=Finding.sort_key)


@pytest.mark.parametrize(("code", "name"), CASES)
def test_a_rule_finds_what_its_fixture_says_and_no_other_finds_more(
    code: str, name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    case = FIXTURES[code][name]
    expected = [{"code": code, "line": None, "pointer": "", **finding} for finding in case.get("findings", [])]
    found = run_case(case, code, tmp_path, tiny_model)
    assert sorted((f["line"] or 0, f["code"], f["pointer"]) for f in expected) == [
        (f.location.line or 0, f.code, f.location.pointer) for f in found
    ]
    for want, got in zip(sorted(expected, key=lambda f: (f["line"] or 0, f["code"], f["pointer"])), found, strict=True):
        assert want["message"] in got.message
        assert want.get("severity", got.severity) == got.severity
    assert (code in {finding.code for finding in found}) is name.startswith("fail_")


def test_every_rule_has_a_case_that_passes_and_one_that_fails() -> None:
    # What befalls the run itself is in no file: `test_run_rules` brings it about.
    assert sorted(FIXTURES) == [rule.code for rule in ALL_RULES if rule.stage is not Stage.RUN]
    for code, cases in FIXTURES.items():
        assert {name.partition("_")[0] for name in cases} == {"pass", "fail"}, code


def test_codes_are_unique_and_sorted_and_names_unique() -> None:
    codes = [rule.code for rule in ALL_RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in ALL_RULES}) == len(codes)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
def test_the_docstring_of_a_rule_shows_a_bad_and_a_good_example(rule: Any) -> None:
    assert re.search(r"^Bad: .*\n(.*\n)*Good: ", rule.doc, re.MULTILINE), rule.code

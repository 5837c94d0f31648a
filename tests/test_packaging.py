"""What is shipped, what is loaded when, and what is said where an extra is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CAN_COMPILE, NO_COMPILER, TinyModel, make_record, write_jsonl

ROOT = Path(__file__).parent.parent
HEAVY = ("ray", "torch", "transformers", "datasets", "pyarrow", "polars", "PIL", "trl", "matplotlib")


def python(
    code: str, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


def ktodata_without(packages: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program in an environment where `packages` are not installed."""
    # None in sys.modules is Python's own way to say "this cannot be imported".
    code = f"import sys; sys.modules.update(dict.fromkeys({packages!r})); from kto_data.cli import run; run()"
    return python(code, *arguments)


def build_wheel(folder: Path, **variables: str) -> Path:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, env=os.environ | variables)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("dist")))


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"kto_data", "kto_train", info}


def test_the_wheel_holds_every_module_and_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    modules = {
        str(path.relative_to(ROOT)) for package in ("kto_data", "kto_train") for path in (ROOT / package).rglob("*.py")
    }
    assert modules | {"kto_data/py.typed", "kto_train/py.typed"} <= set(wheel.namelist())


def test_the_wheel_holds_what_the_html_report_is_made_of(wheel: zipfile.ZipFile) -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "kto_data/report/templates").iterdir()}
    assert {Path(name).suffix for name in files} == {".html", ".css", ".js"}
    assert files <= set(wheel.namelist())


@pytest.mark.skipif(not CAN_COMPILE, reason=NO_COMPILER)
def test_the_wheel_of_a_machine_with_a_compiler_holds_compiled_code_for_every_python(wheel: zipfile.ZipFile) -> None:
    assert wheel.filename is not None
    assert Path(wheel.filename).name.split("-")[2:4] == ["cp311", "abi3"]
    assert "kto_data/_scan.abi3.so" in wheel.namelist()
    assert "kto_data/scan.c" not in wheel.namelist()


@pytest.mark.parametrize("variables", [{"CC": "/bin/false"}, {"HATCH_BUILD_NO_HOOKS": "true"}], ids="".join)
def test_without_a_compiler_the_wheel_is_for_every_platform(variables: dict[str, str], tmp_path: Path) -> None:
    path = build_wheel(tmp_path, **variables)
    assert path.name.endswith("-py3-none-any.whl")
    assert [name for name in zipfile.ZipFile(path).namelist() if "_scan" in name] == ["kto_data/_scan.pyi"]


@pytest.mark.skipif(not CAN_COMPILE, reason=NO_COMPILER)
def test_an_editable_install_keeps_no_code_of_an_older_source(tmp_path: Path) -> None:
    for name in ("kto_data", "kto_train", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    built = tmp_path / "kto_data/_scan.abi3.so"
    built.unlink(missing_ok=True)
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    for compiler, is_there in (({}, True), ({"CC": "/bin/false"}, False), ({}, True)):
        done = python(code, cwd=tmp_path, env=os.environ | compiler)
        assert (done.returncode, built.exists()) == (0, is_there), done.stderr


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import json, sys; from kto_data.cli import main; code = main(['--help']);"
        f"print('\\n' + json.dumps([code, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    assert json.loads(python(code).stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize(("given", "is_off"), [({}, "True"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "False")])
def test_no_telemetry_is_sent_unless_the_user_switches_it_on(given: dict[str, str], is_off: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | given
    code = (
        "from kto_data.cli import main; main(['--version']);"
        "from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    assert python(code, env=env).stdout.splitlines()[-1] == is_off


@pytest.mark.parametrize("start", [["cli.py"], ["-m", "kto_data"]], ids=" ".join)
def test_every_door_leads_to_the_same_program(start: list[str]) -> None:
    def help_of(command: list[str]) -> str:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split("\n", 1)[1]

    installed = Path(sys.executable).with_name("ktodata")
    assert help_of([sys.executable, *start, "--help"]) == help_of([str(installed), "--help"])


def test_validate_needs_no_extra(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "What is round?"}, {"role": "assistant", "content": "Nothing."}]
    data = write_jsonl(tmp_path / "data.jsonl", [make_record(), make_record(messages=other, label=False)])
    extras = ["torch", "transformers", "datasets", "pyarrow", "trl", "peft", "accelerate", "matplotlib", "tokenizers"]
    done = ktodata_without(extras, "validate", data, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["transformers", "datasets", "pyarrow"])
def test_preprocess_without_its_extra_names_what_to_install(
    tmp_path: Path, tiny_model: TinyModel, package: str
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [make_record()])
    arguments = ["preprocess", data, "--model", tiny_model("text"), "--output", tmp_path / "cache"]
    done = ktodata_without([package], *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        f"ktodata: error: `ktodata preprocess` needs the package '{package}', which is not installed\n"
        "ktodata:   try: pip install 'ktodata[preprocess]'\n"
    )
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("command", ["validate", "preprocess"])
def test_ray_without_its_extra_names_what_to_install(tmp_path: Path, tiny_model: TinyModel, command: str) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [make_record()])
    more = ["--model", tiny_model("text"), "--output", tmp_path / "cache"] if command == "preprocess" else []
    done = ktodata_without(["ray"], command, data, "--engine", "ray", *more)
    assert (done.returncode, done.stderr) == (
        2,
        "ktodata: error: --engine ray needs the package 'ray', which is not installed\n"
        "ktodata:   try: pip install 'ktodata[ray]'\n",
    )


@pytest.mark.parametrize("package", ["trl", "torch", "peft"])
def test_train_without_its_extra_names_what_to_install(tmp_path: Path, tiny_model: TinyModel, package: str) -> None:
    arguments = ["--cache", tmp_path / "cache", "--model", tiny_model("text"), "--output", tmp_path / "run"]
    done = ktodata_without([package], "train", *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        f"ktodata: error: `ktodata train` needs the package '{package}', which is not installed\n"
        "ktodata:   try: pip install 'ktodata[train]'\n"
    )

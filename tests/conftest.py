"""What tests share: an environment without network and colours, tiny models, and builders of records and images."""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

_INTERPRETER = Path(__file__).parent / "interpreter"

# Set before any test module is imported: libraries read these at import, and child processes inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="Agg",
    PYTHONPATH=os.pathsep.join(filter(None, [str(_INTERPRETER), os.environ.get("PYTHONPATH")])),
)
for _name in (
    *("CI", "CI_PROJECT_DIR", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"),
    *("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS"),
):
    os.environ.pop(_name, None)

sys.path.insert(0, str(_INTERPRETER))
import torchvision_on_cpu  # noqa: E402  (found through the line above)

torchvision_on_cpu.install()

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

NO_BROWSER = "no chromium"
"""Why a test of the HTML report is left out."""
NO_COMPILER = "no C compiler"
"""Why a test of what is compiled is left out. There is no third reason for which a test may be."""
COMPILER = sysconfig.get_config_var("CC").split()[0]
"""The one that Python was built with, which builds its extensions too."""
CAN_COMPILE = shutil.which(COMPILER) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


_LAST_WORDS = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


@pytest.hookimpl(trylast=True)  # behind pytest's own handler, whose words are lost among the progress
def pytest_configure(config: pytest.Config) -> None:
    """Where a process that runs tests crashes, it leaves what it did at last in a file, named after its number."""
    if hasattr(config, "workerinput"):
        words = open(Path(config.workerinput["last_words"], str(os.getpid())), "w")  # noqa: SIM115 (until it ends)
        faulthandler.enable(words)
    else:
        config.stash[_LAST_WORDS] = tempfile.TemporaryDirectory()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["last_words"] = node.config.stash[_LAST_WORDS].name


def pytest_unconfigure(config: pytest.Config) -> None:
    if _LAST_WORDS in config.stash:
        config.stash[_LAST_WORDS].cleanup()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what crashed processes said at last, and by name what was left out, and for want of what."""
    for words in Path(config.stash[_LAST_WORDS].name).iterdir():
        if said := words.read_text():
            # Ray says why it ends a process in a log alone, behind much that is no trouble.
            logs = [log.read_text() for log in Path("/tmp").glob(f"kto-*/session_2*/logs/*driver*_{words.name}.log")]
            troubles = [re.findall(r"^\[\S+ \S+ [^ID] .*(?:\n[^[].*)*", log, re.MULTILINE)[-20:] for log in logs]
            terminalreporter.section("last words of a crashed process")
            terminalreporter.write_line("\n".join([said, *itertools.chain(*troubles)]))
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        for lacking in (NO_BROWSER, NO_COMPILER):
            if reason.endswith(lacking):
                terminalreporter.write_line(f"left out ({lacking}): {report.nodeid}")


TinyModel = Callable[[str], Path]
"""Name of a family of `examples/tiny_models.py` -> its model folder."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A function from the name of a family to a model folder, built once a session; tests must not write to it."""
    root = tmp_path_factory.mktemp("models")

    def model(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            import tiny_models

            tiny_models.build(name, folder)
        return folder

    return model


def make_record(**overrides: Any) -> dict[str, Any]:
    """A good text-only record as a user writes it, with `overrides` put over its fields; None removes a field."""
    record: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": "What colour is the square?"},
            {"role": "assistant", "content": "The square is red."},
        ],
        "label": True,
    }
    record.update(overrides)
    return {key: value for key, value in record.items() if value is not None}


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """`rows` as JSON lines at `path`; a row that is `bytes` is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def model_that_fastokens_misreads(model: Path, copy: Path) -> Path:
    """A copy of a model of texts about which fastokens is wrong, though no probe shows it: numerals of scripts beyond
    the probed ranges are word characters to one library alone."""
    shutil.copytree(model, copy)
    settings = json.loads((copy / "tokenizer.json").read_bytes())
    odd = {
        "type": "Split",
        "pattern": {"Regex": r"(?=[\x{10000}-\x{1DFFF}])\w"},
        "behavior": "Removed",
        "invert": False,
    }
    before = settings["pre_tokenizer"]
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [odd, *before.get("pretokenizers", [before])]}
    (copy / "tokenizer.json").write_text(json.dumps(settings))
    return copy


def make_image(
    path: Path,
    width: int = 64,
    height: int = 48,
    *,
    mode: str = "RGB",
    color: Any = None,
    noise_seed: int | None = None,
    orientation: int = 1,
) -> Path:
    """An image at `path`, of the type its suffix names.

    `width` and `height` as stored: orientations 5 to 8 show it the other way round. With `noise_seed` every pixel is
    random (RGB and L alone), else it is one colour.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if noise_seed is None:
        image = Image.new(mode, (width, height), color if color is not None else "teal" if mode == "RGB" else 0)
    else:
        import random

        channels = len(Image.new(mode, (1, 1)).getbands())
        image = Image.frombytes(mode, (width, height), random.Random(noise_seed).randbytes(width * height * channels))
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path

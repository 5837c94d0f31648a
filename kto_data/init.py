"""What `ktodata init` puts into a repository: settings, a pre-commit hook, a workflow.

    folder ─▶ plan ─▶ Step(s), each a file with what is added to it ─▶ written, or left as it is

Nothing that is there is changed: files grow at their end, or are left, and then it is said what to add by hand.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml

from kto_data import __version__
from kto_data.config_file import CONFIG_NAMES, has_settings
from kto_data.errors import InputError
from kto_data.writing import write_whole

_SETTINGS = """\
{paths}  # what `ktodata validate` checks when it is given no files
fail-level = "error"  # or "warning": the least severity that fails
# ignore = ["KTO404"]
"""

_LEVELS = """\

# How bad the findings of a rule are, and how many of them are put up with:
# [{prefix}severity]
# KTO111 = "error"
# [{prefix}thresholds]
# KTO210 = {{ warn = 0, error = "1%" }}
"""

_HOOK = f"""\
  - repo: local
    hooks:
      - id: ktodata-validate
        name: ktodata validate
        language: python
        additional_dependencies: ["ktodata=={__version__}"]
        entry: ktodata validate
        types: [text]
        files: \\.jsonl$
        require_serial: true
"""

_WORKFLOW = f"""\
name: ktodata
on:
  push:
    branches: [main]
  pull_request:

permissions:
  contents: read

jobs:
  validate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install ktodata=={__version__}
      # Which files: the `paths` of the settings.
      - run: ktodata validate --output-format github --report html:ktodata.html --report markdown:ktodata.md
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: ktodata
          path: |
            ktodata.html
            ktodata.md
          if-no-files-found: ignore
"""

WORKFLOW_PATH = ".github/workflows/ktodata.yml"
HOOKS_PATH = ".pre-commit-config.yaml"


@dataclass(frozen=True, slots=True)
class Step:
    """One file. `added` is empty where it is left as it is, for the reason `left`."""

    path: Path
    added: str
    left: str = ""

    @property
    def is_new(self) -> bool:
        """Whether the file is yet to be made."""
        return not self.path.exists()

    def write(self) -> None:
        """Write what is added behind what is there."""
        if self.added:
            before = self.path.read_bytes() if self.path.exists() else b""
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot make the folder {self.path.parent}: {error.strerror}") from None
            write_whole(self.path, before + self.added.encode())


def plan(folder: Path) -> tuple[Step, ...]:
    """What to do in `folder`. Where all of it is done already every step leaves its file as it is.

    Raises `InputError` for a file that cannot be read.
    """
    return (_settings(folder), _hook(folder / HOOKS_PATH), _workflow(folder / WORKFLOW_PATH))


def _settings(folder: Path) -> Step:
    for name in CONFIG_NAMES[:2]:
        if (folder / name).exists():
            return Step(folder / name, "", "it has settings already")
    path = folder / "pyproject.toml"
    if not path.exists():
        return Step(folder / "ktodata.toml", _toml(folder, ""))
    text = _read(path)
    added = _gap(text) + "[tool.ktodata]\n" + _toml(folder, "tool.ktodata.")
    try:
        if has_settings(tomllib.loads(text)):
            return Step(path, "", "it has [tool.ktodata] already")
        tomllib.loads(text + added)
    except tomllib.TOMLDecodeError as error:
        return Step(path, "", f"it is not TOML: {error}")
    return Step(path, added)


def _toml(folder: Path, prefix: str) -> str:
    patterns = _data_patterns(folder)
    paths = f"paths = {json.dumps(patterns)}" if patterns else '# paths = ["data/*.jsonl"]'
    return _SETTINGS.format(paths=paths) + _LEVELS.format(prefix=prefix)


def _data_patterns(folder: Path) -> list[str]:
    """Patterns for the JSON lines near the top of a folder: more of a tree, with its images, would take long."""
    found = itertools.chain.from_iterable(folder.glob(f"{'*/' * depth}*.jsonl") for depth in range(3))
    places = {path.relative_to(folder).parent for path in found}
    visible = (place for place in places if not any(part.startswith(".") for part in place.parts))
    return sorted((place / "*.jsonl").as_posix() for place in visible)


def _hook(path: Path) -> Step:
    if not path.exists():
        return Step(path, f"repos:\n{_HOOK}")
    text = _read(path)
    if "ktodata" in text:
        return Step(path, "", "it speaks of ktodata already")
    added = ("" if text.endswith("\n") else "\n") + _HOOK
    # Text is added, so that comments stay; whether it has landed in the list of repositories is then looked at.
    try:
        before, after = yaml.safe_load(text), yaml.safe_load(text + added)
        landed = {**before, "repos": [*before["repos"], *yaml.safe_load(_HOOK)]} == after
    except (yaml.YAMLError, TypeError, KeyError):
        landed = False
    if not landed:
        return Step(path, "", f"its list of repositories does not end the file; add to it:\n{_HOOK}")
    return Step(path, added)


def _workflow(path: Path) -> Step:
    return Step(path, "", "it is there already") if path.exists() else Step(path, _WORKFLOW)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", hint="mend it, or move it away") from None


def _gap(text: str) -> str:
    return "" if not text else "\n" if text.endswith("\n") else "\n\n"

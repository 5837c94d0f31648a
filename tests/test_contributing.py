"""The map of the code shows all of it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_map_names_every_module_and_no_other() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sections = dict(
        zip(("kto_data", "kto_train"), re.split(r"^`kto_(?:data|train)/`:", text, flags=re.M)[1:], strict=True)
    )
    for package, section in sections.items():
        cells = "".join(re.findall(r"^\| (`.*?) \|", section, flags=re.M))
        there = {
            path.name + "/" * path.is_dir() for path in (ROOT / package).iterdir() if not path.name.startswith("_")
        }
        assert set(re.findall(r"`([^`]+)`", cells)) - {"__main__.py"} == there - {"py.typed"}

"""Data is untrusted: no bytes crash a run, hang it, fetch anything, leave the image root or fill the memory."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import laws

_LINES = {
    "no format at all": b"",
    "no JSON": b"x",
    "half a surrogate pair in the id": rb'{"id": "\ud800"}',
    "half a surrogate pair in a path": rb'{"images": ["\ud800/a.png"]}',
    "half a surrogate pair in a key": rb'{"\ud800": [[[]], {"role": Infinity}], "label": "input"}',
}
"""What fuzzing found, and what it might."""


@pytest.mark.parametrize("raw", _LINES.values(), ids=_LINES.keys())
def test_lines_hold_the_laws(raw: bytes) -> None:
    for layout in range(len(laws.LAYOUTS)):
        for every_rule in (False, True):
            laws.hold_line_laws(raw, layout, every_rule=every_rule)


_IMAGES = {
    "a second frame cut in its header": (
        "R0lGODdhBwAFAIEAAAAAAAAAAAAAAAAAACwAAAAABwAFAAAIDAABCBxIsKDBgwcDAgAh+QQBAAABACwAAAAABw=="
    ),
}


@pytest.mark.parametrize("data", _IMAGES.values(), ids=_IMAGES.keys())
def test_images_hold_the_laws(data: str, tmp_path: Path) -> None:
    laws.hold_image_laws(base64.b64decode(data), tmp_path / "a.png")

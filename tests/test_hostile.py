"""Data is untrusted: no bytes crash a run, hang it, fetch anything, leave the image root or fill the memory."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_image, write_jsonl

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


_FILES = {
    "a NUL in a path, where images are not looked at": (
        b'{"messages": [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}],'
        b' "label": true, "images": ["\\u0000"]}'
    ),
}


@pytest.mark.parametrize("kind", ["jsonl", "json"])
@pytest.mark.parametrize("data", _FILES.values(), ids=_FILES.keys())
def test_files_hold_the_laws(data: bytes, kind: str, tmp_path: Path) -> None:
    laws.hold_file_laws(data, kind, tmp_path)


_IMAGES = {
    "a second frame cut in its header": (
        "R0lGODdhBwAFAIEAAAAAAAAAAAAAAAAAACwAAAAABwAFAAAIDAABCBxIsKDBgwcDAgAh+QQBAAABACwAAAAABw=="
    ),
    "a turned TIFF": (
        "SUkqAAgAAAALAAABBAABAAAABwAAAAEBBAABAAAABQAAAAIBAwADAAAAkgAAAAMBAwABAAAAAQAAAAYBAwABAAAAAgAAABEBBAAB"
        "AAAAmAAAABIBAwABAAAABgAAABUBAwABAAAAAwAAABYBBAABAAAABQAAABcBBAABAAAAaQAAABwBAwABAAAAAQAAAAAAAAAIAAgA"
        "CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    ),
    "a frame beyond the canvas of a GIF, drawn as it is opened": (
        "R0lGODlhBwAAAAAAACH5BIlQTkcNChoKAAAADUlIRFIAAAAHAAAABQEAAAAAoeHLdQAAAAtJRU5EeJxjAQAAAAAsAAAAAPn///fj"
        "+QAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQqAMAEoAAAASU5ESK6C////AAcDADs="
    ),
}


@pytest.mark.parametrize("data", _IMAGES.values(), ids=_IMAGES.keys())
def test_images_hold_the_laws(data: str, tmp_path: Path) -> None:
    laws.hold_image_laws(base64.b64decode(data), tmp_path / "a.png")


# The file system and the network


def text(path: str) -> dict[str, object]:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": path}]
    return {"messages": turns, "images": [path], "label": len(path) % 2 == 0}


def hostile_paths(root: Path, outside: Path) -> list[str]:
    """Image paths of all bad intents, and what they lead to."""
    root.mkdir()
    secret = make_image(outside / "secret.png")
    make_image(root / "good.png")
    make_image(root / "e\u0301.png")
    make_image(root / "new\nline.png")
    for name, target in {
        "out.png": secret, "folder": outside, "loop.png": "loop.png", "one.png": "two.png", "two.png": "one.png",
        "zero.png": "/dev/zero", "deep.png": "folder/secret.png", "passwd.png": "/etc/passwd",
    }.items():  # fmt: skip
        os.symlink(target, root / name)
    os.mkfifo(root / "fifo.png")
    (root / "folder.png").mkdir()
    (root / "empty.png").touch()
    (root / "fake.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 5_000)
    return [
        "good.png", "out.png", "folder/secret.png", "deep.png", "loop.png", "one.png", "zero.png", "fifo.png",
        "folder.png", "empty.png", "fake.png", "passwd.png", str(secret), f"../{outside.name}/secret.png",
        f"./x/../../{outside.name}/secret.png", "..", ".", "", "/", "//", "/dev/stdin", "/dev/zero", "/proc/self/mem",
        "a" * 4_096, "a/" * 2_048 + "a.png", "GOOD.png", "good.PNG", "\u00e9.png", "e\u0301.png", "new\nline.png",
        "good.png\0", "\0", "\ud800.png", "~/a.png", "$HOME/a.png", "good.png/", "good.png/.", "*.png",
        "\\\\host\\a.png", "http://127.0.0.1:9/a.png", "https://example.invalid/a.png", "ftp://127.0.0.1/a.png", f"file://{secret}",
        "data:image/png;base64,AAAA", "s3://bucket/a.png", "gs://bucket/a.png", "hf://datasets/a/b.png",
    ]  # fmt: skip


_WATCHED = """
import json, os, sys
seen = []
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.chdir") or event.split(".")[0] in ("socket", "subprocess"):
        seen.append([event, os.path.realpath(arguments[0]) if isinstance(arguments[0], (str, bytes)) else None])
from kto_data.cli import main
sys.addaudithook(watch)
code = main(sys.argv[1:])
print(json.dumps([code, [[event, path if not isinstance(path, bytes) else path.decode()] for event, path in seen]]))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["validate", "--images", "off", "--select", "KTO"],
        ["validate", "--images", "stat", "--select", "KTO"],
        ["validate", "--images", "header"],
        ["validate", "--images", "decode", "--select", "KTO", "--report", "html:report.html", "--thumbnails"],
        ["validate", "--fix", "--unsafe-fixes", "--out", "out.jsonl", "--rejects", "rejects.jsonl"],
        ["convert", "--output", "out.jsonl", "--rejects", "rejects.jsonl"],
        ["stats"],
    ],
    ids=" ".join,
)
def test_nothing_outside_the_root_is_opened_and_nothing_is_fetched(command: list[str], tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    paths = hostile_paths(root, outside)
    data = write_jsonl(root / "data.jsonl", [json.dumps(text(path)).encode() for path in paths])
    program = [sys.executable, "-c", _WATCHED, command[0], "root/data.jsonl", *command[1:], "--quiet"]
    run = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    code, seen = json.loads(run.stdout.splitlines()[-1])
    assert code in (0, 1), run.stderr
    assert [str(data.resolve()), True] in [[path, event == "open"] for event, path in seen]
    assert ([str(root.resolve() / "good.png"), True] in [[path, event == "open"] for event, path in seen]) == (
        command[0] != "convert" and not {"off", "stat"} & set(command)
    )
    beyond = [str(outside.resolve()), "/dev/zero", "/dev/stdin", "/proc/self/mem", "/etc/passwd"]
    for event, path in seen:
        assert event.split(".")[0] not in ("socket", "subprocess"), event
        assert path is None or not any(path == place or path.startswith(f"{place}/") for place in beyond), path
        assert path is None or Path(path).name not in ("fifo.png", "loop.png", "one.png", "two.png")


def test_many_large_images_are_decoded_in_the_memory_of_a_few(tmp_path: Path) -> None:
    """Each of them takes 48 MiB as RGB."""
    make_image(tmp_path / "0.jpg", 4_096, 4_096)
    for index in range(1, 16):
        os.link(tmp_path / "0.jpg", tmp_path / f"{index}.jpg")
    write_jsonl(tmp_path / "data.jsonl", [json.dumps(text(f"{index}.jpg")).encode() for index in range(16)])
    program = (  # `ru_maxrss` of itself begins with that of whoever started it
        "import pathlib, re, resource, sys; from kto_data.cli import main; code = main(sys.argv[1:]); "
        "own = re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]; "
        "print(code, int(own) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, "validate", "data.jsonl", "--images", "decode", "-q", "-o", os.devnull]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    code, kibibytes = map(int, run.stdout.split())
    assert code == 0
    assert kibibytes < 400 * 1024

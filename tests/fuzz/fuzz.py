"""Coverage-guided fuzzing of what `ktodata validate` does with data: `make fuzz`, or

    python tests/fuzz/fuzz.py lines|files|images CORPUS [options of libFuzzer, such as -max_total_time=600]

Seeds are written to CORPUS where it is empty. A find is written to the current folder as `crash-…`, `timeout-…` or
`oom-…`: mend it, and keep its bytes in `tests/test_hostile.py`.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS / "fuzz"), str(_TESTS / "data"), str(_TESTS), str(_TESTS.parent)]
with atheris.instrument_imports(include=["kto_data"]):
    import laws

    import kto_data.read  # noqa: F401  (imported late elsewhere, and then not instrumented)

import yaml  # noqa: E402
from PIL import Image  # noqa: E402

_FIXTURES = _TESTS / "fixtures" / "rules"
_WORDS: list[Any] = [
    *("messages", "label", "images", "image", "id", "source", "metadata", "role", "content", "type", "text", "tools"),
    *("prompt", "completion", "chosen", "rejected", "conversations", "from", "value", "kto_tag", "instruction"),
    *("input", "output", "history", "system", "user", "assistant", "human", "gpt", "tool", "chat", "pics"),
    *("<image>", "<|im_end|>", "<|image_pad|>", "[INST]", "</s>", "", " ", "\u200b", "\ud800", "\x00", "\x1b[31m"),
    *("a.png", "../a.png", "/etc/passwd", "http://x/a.png", "a\\b.png", "a\nb.png", "true", "é", "e\u0301", "Ã©"),
    *("\u202e", "-----BEGIN PRIVATE KEY-----", "ghp_" + "a" * 36, "a@b.cc", "I'm sorry, but", "data:image/png;base64,"),
    *(None, True, False, 0, 1, -1, 1.5, 1e300, 2**63, 2**64, -(2**63) - 1, 10**30, float("nan"), float("inf")),
    *([], {}, [[]], [{}], {"role": "user", "content": "<image>a"}, {"type": "text", "text": "a"}, {"type": "image"}),
]


def seeds(target: str) -> Iterator[bytes]:
    """Where the search starts: the lines of the rules' fixtures, or small images of all types and modes."""
    if target == "images":
        yield from _images()
        return
    from test_rules import as_line, filling

    for path in sorted(_FIXTURES.glob("*.yaml")):
        for case in yaml.safe_load(path.read_text(encoding="utf-8")).values():
            lines = [as_line(item) for item in case.get("lines", [])]
            if target == "files":
                yield b"\x00" + b"\n".join(lines)
                yield b"\x01[" + b",\n".join(lines) + b"]"
            else:
                yield from (b"\x00" + line for line in lines)
    for index in range(len(laws.LAYOUTS) if target == "lines" else 0):
        for record in _FORMATS:
            yield bytes([index]) + json.dumps(record).encode()
    yield b"\x00" + json.dumps(filling()[0]).encode()


_TURNS = [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]
_FORMATS: list[dict[str, Any]] = [
    {"messages": _TURNS, "images": ["a.png"], "label": True, "id": 1, "source": "x", "metadata": {"a": [1]}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "images": ["a"]},
    {"prompt": "a", "completion": "b", "label": False},
    {"prompt": _TURNS[:1], "completion": _TURNS[1:], "label": False, "image": "a.png"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "kto_tag": True, "system": "s"},
    {"instruction": "a", "input": "b", "output": "c", "kto_tag": "true", "history": [["a", "b"]]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"chosen": _TURNS, "rejected": _TURNS, "images": ["a.png"]},
    {"chat": _TURNS, "pics": ["a.png"], "label": True},
]


def _images() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F", "YCbCr", "PA"):
        for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "AVIF"):
            for options in ({}, {"exif": exif}, {"save_all": True, "append_images": [Image.new(mode, (7, 5), 1)]}):
                file = io.BytesIO()
                try:
                    Image.new(mode, (7, 5)).save(file, kind, **options)  # type: ignore[arg-type]
                except (OSError, KeyError, ValueError, SystemError):
                    continue
                yield file.getvalue()
                yield file.getvalue()[: len(file.getvalue()) * 2 // 3]


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Bytes changed at random; where they hold JSON, often a change of the value, so that it stays JSON."""
    chance = random.Random(seed)
    if chance.random() < 0.4:
        return bytes(atheris.Mutate(data, max_size))
    try:
        value = json.loads(data[1:])
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    for _ in range(chance.randint(1, 3)):
        value = _changed(value, chance)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, None, 1]))
    head = bytes([chance.randrange(256)]) if chance.random() < 0.2 else data[:1]
    return (head + text.encode(errors="surrogatepass"))[:max_size]


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        match chance.randrange(10):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                name = chance.choice([word for word in _WORDS if isinstance(word, str)])
                return {name if old == key else old: item for old, item in value.items()}
            case 2:
                return {**value, chance.choice([word for word in _WORDS if isinstance(word, str)]): value[key]}
            case _:
                return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        match chance.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case 2:
                return [*value[:at], chance.choice(_WORDS), *value[at:]]
            case _:
                return [*value[:at], _changed(value[at], chance), *value[at + 1 :]]
    if isinstance(value, str) and chance.random() < 0.5:
        at = chance.randint(0, len(value))
        return value[:at] + str(chance.choice(_WORDS)) + value[at + chance.randrange(2) :]
    return chance.choice(_WORDS)


def main() -> None:
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for index, seed in enumerate(seeds(target)):
            (corpus / f"seed-{index:04}").write_bytes(seed)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def run(data: bytes) -> None:
        head = data[0] if data else 0
        if target == "images":
            laws.hold_image_laws(data, folder / "a.png")
        elif target == "files":
            laws.hold_file_laws(data[1:], laws.FILE_KINDS[head % len(laws.FILE_KINDS)], folder)
        else:
            laws.hold_line_laws(data[1:], head & 127, every_rule=head < 128)

    arguments = [sys.argv[0], "-timeout=20", "-rss_limit_mb=2000", *sys.argv[3:], str(corpus)]
    atheris.Setup(arguments, run, custom_mutator=None if target == "images" else mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from kto_data.image import read_header
from kto_data.image_header import HEAD_BYTES, HeaderFacts, png_says_more_behind_pixels, read_facts


def encoded(mode: str = "RGB", format: str = "JPEG", size: tuple[int, int] = (40, 24), **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise(size, 60).convert(mode)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int, *, order: str = "<", camera: str = "") -> bytes:
    block = Image.Exif()
    block.endian = order
    if camera:
        block[0x0110] = camera
    block[0x0112] = orientation
    return block.tobytes()


def text(key: str, value: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, value)
    return info


def chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def behind_pixels(png: bytes, name: bytes, data: bytes) -> bytes:
    return png[:-12] + chunk(name, data) + png[-12:]


USUAL = {
    "jpeg": encoded(),
    "jpeg, grey": encoded("L"),
    "jpeg, cmyk": encoded("CMYK"),
    "jpeg, progressive": encoded(progressive=True, optimize=True),
    "jpeg, colour profile": encoded(icc_profile=b"p" * 9000),
    "jpeg, comment": encoded(comment=b"c" * 5000),
    **{f"jpeg, turned {turn}": encoded(exif=exif(turn)) for turn in range(1, 9)},
    "jpeg, turned, big-endian": encoded(exif=exif(6, order=">", camera="A camera of ours")),
    "png": encoded(format="PNG"),
    **{f"png, {mode}": encoded(mode, "PNG") for mode in ("1", "L", "P", "LA", "RGBA", "I;16")},
    "png, palette with transparency": encoded("P", "PNG", transparency=3),
    "png, colour that is transparent": encoded("RGB", "PNG", transparency=(1, 2, 3)),
    "png, resolution": encoded("RGB", "PNG", dpi=(72, 72)),
    "png, turned": encoded("RGB", "PNG", exif=exif(8)),
    "png, time behind the pixels": behind_pixels(encoded(format="PNG"), b"tIME", bytes(7)),
    "png, text behind the pixels": behind_pixels(encoded(format="PNG"), b"tEXt", b"date:create\0today"),
}
UNUSUAL = {
    "webp": encoded(format="WEBP"),
    "gif": encoded("P", "GIF"),
    "jpeg, turned in XMP": encoded(xmp=b'<x tiff:Orientation="6"/>'),
    "png, turned behind the pixels": behind_pixels(encoded(format="PNG"), b"eXIf", exif(6)[6:]),
    "png, text before the pixels": encoded(format="PNG", pnginfo=text("Raw profile type exif", "\nexif\n  4\n00")),
    "png, animated": encoded("RGB", "PNG", save_all=True, append_images=[Image.new("RGB", (40, 24))]),
    "no image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "jpeg, nothing but a start": b"\xff\xd8\xff\xe0",
}


def by_hand(data: bytes) -> HeaderFacts | None:
    return read_facts(data[:HEAD_BYTES], lambda offset, count: data[offset : offset + count])


def by_pillow(data: bytes) -> HeaderFacts:
    header = read_header(io.BytesIO(data), len(data))
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    assert header.num_frames == 1
    return HeaderFacts(header.format, header.mode, width, height, header.orientation, header.has_transparency)


@pytest.mark.parametrize("data", USUAL.values(), ids=USUAL)
def test_usual_files_are_read_by_hand_as_pillow_reads_them(data: bytes) -> None:
    assert by_hand(data) == by_pillow(data)


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_files_are_left_to_pillow(data: bytes) -> None:
    assert by_hand(data) is None


def test_a_large_block_before_the_size_is_stepped_over() -> None:
    data = encoded(exif=exif(6, camera="x" * 30_000), icc_profile=b"p" * 60_000)
    assert by_hand(data) == by_pillow(data)


@pytest.mark.parametrize(
    ("chunks", "says_more"),
    [
        ([], False),
        ([(b"tEXt", b"date:create\0today"), (b"tIME", bytes(7)), (b"tEXt", b"date:modify\0IDAT")], False),
        ([(b"eXIf", exif(6)[6:])], True),
        ([(b"eXIf", exif(6)[6:]), (b"tEXt", b"date:create\0today")], True),
        ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")], True),
        ([(b"prVt", b"")], True),
    ],
    ids=["nothing", "texts and a time", "a turn", "a turn and a text", "XMP", "something else"],
)
def test_what_stands_behind_the_pixels_of_a_large_png_is_told_from_its_end(
    chunks: list[tuple[bytes, bytes]], says_more: bool
) -> None:
    data = encoded(format="PNG", size=(700, 500), compress_level=1)
    for name, content in chunks:
        data = behind_pixels(data, name, content)
    read: list[int] = []

    def read_at(offset: int, count: int) -> bytes:
        read.append(offset)
        return data[offset : offset + count]

    assert png_says_more_behind_pixels(read_at, len(data)) is says_more
    assert len(read) == 1 or says_more
    assert data.count(b"IDAT") > 3


def changes(data: bytes) -> Iterator[st.SearchStrategy[bytes]]:
    places = st.lists(st.tuples(st.integers(0, min(len(data), 700) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    yield places.map(lambda changed: _with(data, changed))
    yield st.integers(1, len(data)).map(lambda length: data[:length])


def _with(data: bytes, changed: list[tuple[int, int]]) -> bytes:
    altered = bytearray(data)
    for place, value in changed:
        altered[place] = value
    return bytes(altered)


@settings(max_examples=1500)
@given(st.one_of(*(strategy for data in USUAL.values() for strategy in changes(data))))
def test_what_is_read_by_hand_of_a_damaged_file_is_what_pillow_reads(data: bytes) -> None:
    facts = by_hand(data)
    if facts is not None:
        assert facts == by_pillow(data)

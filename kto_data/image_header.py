"""The usual JPEG and PNG read by hand: size, mode and orientation for a tenth of what opening them in Pillow costs.

The law: where `read_facts` answers, Pillow opens the file and says the same. What is unusual in any way gets None, and
Pillow judges. The formats: ITU-T T.81, annex B; PNG (third edition), sections 5 and 11; EXIF 2.32, section 4.6.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

HEAD_BYTES = 4096
"""Bytes of a file's beginning that `read_facts` is given: enough for most files."""

ReadAt = Callable[[int, int], bytes]
"""(offset, number of bytes) -> those bytes of the file, fewer at its end."""


class HeaderFacts(NamedTuple):
    """What a header says, in Pillow's words. Sizes in pixels, as the pixels are stored."""

    format: str
    mode: str
    width: int
    height: int
    orientation: int  # EXIF, 1 to 8
    has_transparency: bool


def read_facts(head: bytes, read_at: ReadAt) -> HeaderFacts | None:
    """What the file says that begins with `head`; None where Pillow has to be asked."""
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(head, read_at)
    if head.startswith(_PNG_SIGNATURE):
        return _png(head, read_at)
    return None


# JPEG

_START_OF_SCAN = 0xDA
_QUANTIZATION = 0xDB
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})  # the processes that are met: baseline, extended, progressive
_PLAIN_SEGMENTS = frozenset({0xC4, 0xDD, 0xFE, *range(0xE0, 0xED), 0xEE, 0xEF})
"""Huffman tables, restart interval, comment, and APPn but for Photoshop's, which Pillow reads in depth."""
_MIN_LENGTHS = {0xE0: 16, 0xE2: 16, 0xEE: 14}  # so that the fields of JFIF, ICC and Adobe are there
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_MAX_SEGMENTS = 200
_SEGMENT = struct.Struct(">BBH")
_FRAME = struct.Struct(">BHHB")


def _jpeg(head: bytes, read_at: ReadAt) -> HeaderFacts | None:
    frame: tuple[int, int, str] | None = None  # width, height, mode
    orientation: int | None = None
    start, position = 0, 2  # where in the file `head` starts; where in it the next segment does
    for _ in range(_MAX_SEGMENTS):
        if position + 24 > len(head):  # what is looked at of any segment without asking for more
            start, position = start + position, 0
            head = read_at(start, HEAD_BYTES)
            if len(head) < 4:
                return None
        prefix, marker, length = _SEGMENT.unpack_from(head, position)
        body = position + 4
        if prefix != 0xFF or length < 2:
            return None
        end = position + 2 + length
        if marker == _START_OF_SCAN:
            if frame is None or end > len(head):
                return None
            return HeaderFacts("JPEG", frame[2], frame[0], frame[1], orientation or 1, False)
        if marker in _START_OF_FRAME:
            frame = None if frame else _frame(head, body, length)
            if frame is None:
                return None
        elif marker == _QUANTIZATION or head.startswith((b"Exif", b"MPF", b"http://ns.adobe.com"), body):
            if end > len(head):
                start, end, body = start + position, end - position, 4
                head = read_at(start, end + HEAD_BYTES)
                if len(head) < end:
                    return None
            segment = head[body:end]
            if marker == _QUANTIZATION:
                if not _is_quantization(segment):
                    return None
            elif marker == 0xE1 and segment.startswith(b"Exif\0\0") and orientation is None:
                orientation = _orientation(segment[6:])
                if orientation is None:
                    return None
            elif b"tiff:Orientation" in segment or not segment.startswith(b"http"):
                return None  # several pictures in one, EXIF in parts, or an orientation elsewhere than in EXIF
        elif marker not in _PLAIN_SEGMENTS or length < _MIN_LENGTHS.get(marker, 2):
            return None
        position = end
    return None


def _frame(head: bytes, body: int, length: int) -> tuple[int, int, str] | None:
    if body + 6 > len(head) or length < 8:
        return None
    bits, height, width, components = _FRAME.unpack_from(head, body)
    if bits != 8 or not width or not height or length != 8 + 3 * components:
        return None
    mode = _JPEG_MODES.get(components)
    return (width, height, mode) if mode else None


def _is_quantization(tables: bytes) -> bool:
    """Whether these are whole tables, of 8 or 16 bits."""
    position = 0
    while position < len(tables):
        position += 65 if tables[position] < 16 else 129
    return position == len(tables)


# EXIF

_ORIENTATION_TAG = 0x0112
_SHORT = 3
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def _orientation(tiff: bytes) -> int | None:
    """The orientation that an EXIF block says; 1 where it says none, None where it is not as it should be."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 14:
        return None
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    if offset < 8 or offset + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    entries = tiff[offset + 2 : offset + 2 + 12 * count]
    if len(entries) != 12 * count:
        return None
    orientation = None
    for tag, kind, number, value in struct.iter_unpack(order + "HHI4s", entries):
        num_bytes = _TYPE_BYTES.get(kind, 0) * number
        if not num_bytes:
            return None
        if num_bytes > 4 and struct.unpack(order + "I", value)[0] + num_bytes > len(tiff):
            return None  # Pillow stops reading there
        if tag == _ORIENTATION_TAG:
            if orientation is not None or kind != _SHORT or number != 1:
                return None
            (orientation, _) = struct.unpack(order + "HH", value)
    if orientation is None:
        return 1
    return orientation if 1 <= orientation <= 8 else None


# PNG

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">IIBBBBB")
_PNG_MODES = {
    (1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (16, 0): "I;16",
    (8, 2): "RGB", (16, 2): "RGB",
    (1, 3): "P", (2, 3): "P", (4, 3): "P", (8, 3): "P",
    (8, 4): "LA", (16, 4): "RGBA",
    (8, 6): "RGBA", (16, 6): "RGBA",
}  # fmt: skip
_HARMLESS = frozenset(
    {b"PLTE", b"pHYs", b"sRGB", b"gAMA", b"cHRM", b"sBIT", b"bKGD", b"hIST", b"tIME", b"tRNS", b"eXIf"}
)
_PNG_LENGTHS = {b"pHYs": 9, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_MAX_HARMLESS_BYTES = 1 << 16
_MAX_CHUNKS = 1 << 20
_TEXT_KEYWORD_BYTES = 16
_TAIL_BYTES = (1 << 16) + (1 << 12)  # most encoders make chunks of 64 KiB of pixels, or less
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_BEHIND_PIXELS = re.compile(rb"(?=....(?:IDAT|tEXt|zTXt|iTXt|tIME))", re.DOTALL)


def _png(head: bytes, read_at: ReadAt) -> HeaderFacts | None:
    if len(head) < 33 or head[8:16] != b"\0\0\0\rIHDR" or not _is_whole(head, 8, 13):
        return None
    width, height, depth, color, compression, filtering, interlacing = _IHDR.unpack_from(head, 16)
    mode = _PNG_MODES.get((depth, color))
    if mode is None or not width or not height or compression or filtering or interlacing > 1:
        return None
    has_transparency = "A" in mode
    orientation = 1
    seen = set()
    position = 33
    while position + 8 <= len(head):
        length, name = _CHUNK.unpack_from(head, position)
        if name == b"IDAT":
            facts = HeaderFacts("PNG", mode, width, height, orientation, has_transparency)
            return None if _says_more_behind_pixels(position, read_at) else facts
        if name not in _HARMLESS or name in seen or length > _MAX_HARMLESS_BYTES:
            return None
        seen.add(name)
        if position + 12 + length > len(head):
            head += read_at(len(head), position + 12 + length + HEAD_BYTES - len(head))
        if not _is_whole(head, position, length) or length != _PNG_LENGTHS.get(name, length):
            return None
        if name == b"tRNS":
            if has_transparency or length != {"RGB": 6, "P": length}.get(mode, 2):
                return None
            has_transparency = True
        elif name == b"eXIf":
            found = _orientation(head[position + 8 : position + 8 + length])
            if found is None:
                return None
            orientation = found
        position += 12 + length
    return None


def _is_whole(data: bytes, position: int, length: int) -> bool:
    """Whether the chunk at `position`, of `length` bytes, is all there with the check sum it should have."""
    end = position + 12 + length
    return len(data) >= end and zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def png_says_more_behind_pixels(read_at: ReadAt, num_bytes: int) -> bool:
    """Whether a PNG of `num_bytes` has chunks behind its pixels that may turn it: to read those, Pillow decodes all
    pixels first."""
    tail = read_at(max(0, num_bytes - _TAIL_BYTES), _TAIL_BYTES)
    if _ends_in_pixels(tail):  # which spares a look at each chunk of pixels: all of the file, where it is far away
        return False
    position = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        chunk = read_at(position, 8)
        if len(chunk) < 8:
            return False
        length, name = _CHUNK.unpack(chunk)
        if name == b"IDAT":
            return _says_more_behind_pixels(position, read_at)
        position += 12 + length
    return False


def _ends_in_pixels(tail: bytes) -> bool:
    """Whether it is plain from the end of a PNG that behind its pixels is nothing that may turn it."""
    end = len(tail) - len(_PNG_END)
    if not tail.endswith(_PNG_END):
        return False
    for match in reversed(list(_BEHIND_PIXELS.finditer(tail))):
        start = match.start()
        length, name = _CHUNK.unpack_from(tail, start)
        if start + 12 + length == end and _is_whole(tail, start, length):
            if name == b"IDAT":
                return True
            if name != b"tIME" and not _is_plain_text(tail[start:]):
                return False
            end = start
    return False


def _is_plain_text(chunk: bytes) -> bool:
    """Whether a chunk of a PNG is one of text that says nothing of how the image lies."""
    is_text = chunk[4:8] in (b"tEXt", b"zTXt", b"iTXt")
    return is_text and not chunk.startswith((b"Raw profile type", b"XML:com"), 8)


def _says_more_behind_pixels(position: int, read_at: ReadAt) -> bool:
    """The same, from the first chunk of pixels on."""
    for _ in range(_MAX_CHUNKS):
        chunk = read_at(position, 8 + _TEXT_KEYWORD_BYTES)
        if len(chunk) < 8:
            return False  # it is cut, which is found by its missing end
        length, name = _CHUNK.unpack_from(chunk)
        if name == b"IEND":
            return False
        if name not in (b"IDAT", b"tIME") and not _is_plain_text(chunk):
            return True
        position += 12 + length
    return True

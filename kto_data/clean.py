"""The fast path: records that are plainly clean are told apart from all others for little more than parsing costs.

    Block ─▶ Gate ─▶ Sifted: columns of the clean records, and the places of all others

The law: what `Gate` lets pass, `LineChecker.check` finds nothing about. The other way round nothing is promised: what
is unusual goes the slow way, which words its findings. So each test here may be stricter than the rule it stands for,
and none may be laxer. What compiled code has read already (`kto_data.plain`) is not looked at again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import UNSET

from kto_data.check import CheckedLine, CheckedRecord, LineChecker
from kto_data.chunk import Block, Line
from kto_data.digest import SampleDigest, add_text, as_json, prompt_digest, seed_of
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.formats import Format
from kto_data.frames import Frame, find_frame
from kto_data.json_array import MAX_COMMAS
from kto_data.marks import count_delimiters, find_beginnings
from kto_data.noting import CODES_OF_WHOLE_RECORDS
from kto_data.plain import BEGINNINGS, PLACEHOLDER, Sifted, read_plain
from kto_data.row import Row
from kto_data.rules.base import Stage
from kto_data.rules.chat import are_in_order, is_blank
from kto_data.rules.chunk_facts import Shape
from kto_data.rules.control_tokens import may_be_control_token

KNOWN_RULES = frozenset(
    "KTO101 KTO102 KTO103 KTO104 KTO105 KTO106 KTO107 KTO108 KTO109 KTO110 KTO111 KTO112"
    " KTO301 KTO302 KTO303 KTO304 KTO305 KTO306 KTO307 KTO308 KTO309 KTO402".split()
)
"""The row rules that a line is judged by here. Where any other one is selected, no line is let pass; rules about images
are asked themselves."""

_LINES_AT_ONCE = 32  # more, joined, would take memory and save no time
_FEW = 4  # where less than one of so many lines is plain, all are judged faster together than the others one by one
_MANY_KINDS = 10_000  # more are not remembered
_NO_IMAGES: list[str] = []


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


_Id = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # larger ones are looked at
_MAY_BE_LEFT_OUT: dict[str, Any] = {"images": list[str], "id": _Id | str | None, "source": str | None}


class _Kind:
    """What is remembered of records with the same label, as many images and messages of the same roles."""

    __slots__ = ("frame", "seed")

    def __init__(self, roles: Sequence[str], num_images: int) -> None:
        self.seed = seed_of(tuple(roles))
        self.frame = Frame((b"",) * (len(roles) + num_images), b"")  # the last one that was found; none is like this


class Gate:
    """Judges raw lines by the rules and the image memory of a `LineChecker`."""

    def __init__(self, checker: LineChecker) -> None:
        self.checker = checker
        self.format = checker.layout.format or Format.MESSAGES
        settings = checker.settings
        # What the layout renames or leaves out goes the slow way.
        takes = checker.layout.takes_as_is
        self._takes_more = takes(_MAY_BE_LEFT_OUT)
        self._may_judge = KNOWN_RULES.issuperset(rule.code for rule in settings.rules(Stage.ROW))
        self._may_judge &= settings.codes.isdisjoint(CODES_OF_WHOLE_RECORDS) and takes(("messages", "label"))
        fields: list[Any] = [("messages", list[_Message]), ("label", bool)]
        for name, kind in _MAY_BE_LEFT_OUT.items():
            known = kind | msgspec.UnsetType if takes((name,)) else msgspec.UnsetType
            fields.append((name, known, UNSET))
        row = msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row)
        self._kinds: dict[tuple[bool | str, ...], _Kind | None] = {}

    def sift(self, block: Block) -> Sifted:
        """Judge all lines of a block."""
        if not self._may_judge:
            return Sifted(doubtful=list(range(len(block))))
        data, ends = block.joined
        sifted = read_plain(data, ends, may_have_more=self._takes_more)
        if _FEW * len(sifted.prompts) < len(ends):
            return self._judge(data, ends, block.path)
        self._look_again(sifted, data, ends, block.path)
        return sifted

    def clean(self, raw: bytes, data_path: str) -> tuple[SampleDigest, int, Shape] | None:
        """The digest, the length of the completion and the shape of the one record in `raw`; None where a closer look
        is needed."""
        found = self.sift(Block(path=data_path, given=(Line(data_path, 1, 0, raw),)))
        if found.doubtful:
            return None
        return SampleDigest(found.prompts[0], found.completions[0]), found.lengths[0], Shape(*found.shapes[0])

    def check(self, lines: Iterable[Line]) -> Iterator[CheckedLine]:
        """What the checker says of each line of a file; of those that are plainly clean it is known for less."""
        lines = self.checker.ahead(lines)
        while some := tuple(islice(lines, _LINES_AT_ONCE)):
            doubtful = frozenset(self.sift(Block(path=some[0].path, given=some)).doubtful)
            for index, line in enumerate(some):
                yield self.checker.check(line) if index in doubtful else self._as_checked(line)

    def _as_checked(self, line: Line) -> CheckedLine:
        """What the checker would say of a clean line."""
        from kto_data.record import Record

        record = Record.model_validate_json(line.raw)
        probes = self.checker.probes(record.images, line.path)
        row = Row(line=line, value=orjson.loads(line.raw), record=record)
        return CheckedLine(
            line=line,
            findings=(),
            samples=(CheckedRecord(record, tuple([probes[path] for path in record.images]), row),),
            labels=(record.label,),
            format=row.format,
            unmapped_images=False,
            source=row.source,
        )

    def _judge(self, data: bytes, ends: Sequence[int], path: str) -> Sifted:
        # Line by line, and of each nothing is kept: so that all is done within the cache. Nothing is called here that
        # most lines do without.
        sifted, doubtful = Sifted(), []
        prompts, completions, lengths, shapes = sifted.prompts, sifted.completions, sifted.lengths, sifted.shapes
        with_tokens, with_placeholders = _lines_with_tokens(data, ends)
        decode, kinds = self._decoder.decode, self._kinds
        stop = -1
        for index, end in enumerate(ends):
            start, stop = stop + 1, end
            try:
                row = decode(data[start:stop])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                doubtful.append(index)
                continue
            messages, images = row.messages, row.images or _NO_IMAGES
            key = (row.label, len(images), *[message.role for message in messages])
            kind = kinds[key] if key in kinds else self._meet(key)
            # What is so long may have too many values.
            if kind is None or index in with_tokens or stop - start > MAX_COMMAS:
                doubtful.append(index)
                continue
            texts = [message.content for message in messages]
            (gaps, behind), place, prompt, digest, text = kind.frame, start, 0, kind.seed, b""
            for gap, content in zip(gaps, texts, strict=False):
                prompt, text = digest, as_json(content)
                digest = add_text(text, prompt)
                if not data.startswith(gap, place):
                    place = stop  # which no line that has a frame comes to
                place += len(gap) + len(text)
            for gap, image in zip(gaps[len(texts) :], images, strict=True) if images else ():
                place = place + len(gap) + len(as_json(image)) if data.startswith(gap, place) else stop
            if (
                (data[place:stop] != behind and not self._is_sound(row, data[start:stop], kind))
                or ((images or index in with_placeholders) and not self._are_shown(images, texts, path))
                # A text that begins with a visible character of ASCII is not empty; others are looked at.
                or (not "!" <= min(texts) <= max(texts) < "\x7f" and any(map(is_blank, texts)))
            ):
                doubtful.append(index)
                continue
            if images:
                sifted.images[len(prompts)] = images
                prompt = prompt_digest(prompt, images)
            prompts.append(prompt)
            completions.append(add_text(text))
            lengths.append(len(content))
            shapes.append((row.label, len(texts), len(images), row.source or ""))
        sifted.doubtful = doubtful
        return sifted

    def _look_again(self, sifted: Sifted, data: bytes, ends: Sequence[int], path: str) -> None:
        """Judge the lines that are doubtful yet, and put in their places what is found of those that are clean."""
        doubtful, sifted.doubtful = sifted.doubtful, []
        for index in doubtful:
            line = data[ends[index - 1] + 1 if index else 0 : ends[index]]
            found = self._judge(line, (len(line),), path)
            if found.doubtful:
                sifted.doubtful.append(index)
                continue
            place = index - len(sifted.doubtful)
            sifted.prompts[place:place] = found.prompts
            sifted.completions[place:place] = found.completions
            sifted.lengths[place:place] = found.lengths
            sifted.shapes[place:place] = found.shapes
            if found.images:
                sifted.images[place] = found.images[0]

    def _meet(self, key: tuple[Any, ...]) -> _Kind | None:
        """What is remembered of records that come first here; None where the order of roles is one to be found fault
        with."""
        if len(self._kinds) >= _MANY_KINDS:
            self._kinds.clear()
        _, num_images, *roles = key
        self._kinds[key] = _Kind(roles, num_images) if are_in_order(roles) else None
        return self._kinds[key]

    def _is_sound(self, row: Any, line: bytes, kind: _Kind) -> bool:
        """Whether no key of a record is written twice, and no token hidden by its spelling. Its frame is remembered."""
        texts = [as_json(message.content) for message in row.messages]
        images = [as_json(path) for path in row.images or _NO_IMAGES]
        frame = find_frame(line, texts, images)
        # Each string begins and ends with a quotation mark. Where there are more, the parser dropped a key.
        if frame is None:
            may_hold_tokens = any(_may_hold_tokens(text, bool(images)) for text in texts)
            return count_delimiters(line) == 2 * _count_strings(row) and not may_hold_tokens
        if frame.num_marks != 2 * (_count_strings(row) - len(texts) - len(images)):
            return False
        kind.frame = frame
        return True

    def _are_shown(self, images: list[str], texts: list[str], path: str) -> bool:
        """Whether there is a placeholder for each image, none of them in the completion, and no fault in any image."""
        counts = [text.count(IMAGE_PLACEHOLDER) for text in texts]
        return sum(counts) == len(images) and not counts[-1] and self.checker.are_clean_images(images, path)


def _lines_with_tokens(data: bytes, ends: Sequence[int]) -> tuple[set[int], set[int]]:
    """The indices of the lines in whose bytes a control token may be, and of those where a placeholder is."""
    with_tokens, with_placeholders = set(), set()
    for place in find_beginnings(data, BEGINNINGS):
        if data.startswith(PLACEHOLDER, place):
            with_placeholders.add(bisect_left(ends, place))
        elif may_be_control_token(data, place):
            with_tokens.add(bisect_left(ends, place))
    return with_tokens, with_placeholders


def _may_hold_tokens(spelled: bytes, has_images: bool) -> bool:
    """Whether there may be a control token in what `as_json` made of a text, or a placeholder where no images are."""
    return any(
        may_be_control_token(spelled, place) or (not has_images and spelled.startswith(PLACEHOLDER, place))
        for place in find_beginnings(spelled, BEGINNINGS)
    )


def _count_strings(row: Any) -> int:
    """The strings that a row is written with, keys included.

    Each begins and ends with a quotation mark. Where the line has more of those, the parser dropped a key that was
    written twice.
    """
    number = 2 + 4 * len(row.messages)
    if row.images is not UNSET:
        number += 1 + len(row.images)
    if row.id is not UNSET:
        number += 1 + (type(row.id) is str)
    if row.source is not UNSET:
        number += 1 + (row.source is not None)
    return number

"""The fast path: records that are plainly clean are told apart from all others for little more than parsing costs.

    Block ─▶ Gate ─▶ Sifted: columns of the clean records, and the places of all others

The law: what `Gate` lets pass, `LineChecker.check` finds nothing about. The other way round nothing is promised: what
is unusual goes the slow way, which words its findings. So each test here may be stricter than the rule it stands for,
and none may be laxer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import msgspec
import orjson
from msgspec import UNSET

from kto_data.check import CODES_OF_WHOLE_RECORDS, CheckedLine, CheckedRecord, LineChecker
from kto_data.chunk import Block, Line
from kto_data.digest import SampleDigest, as_json, completion_digest, prompt_digest
from kto_data.fields import IMAGE_PLACEHOLDER
from kto_data.formats import Format
from kto_data.json_array import MAX_COMMAS
from kto_data.marks import are_objects_apart, count_delimiters, find_beginnings
from kto_data.row import Row
from kto_data.rules.base import Stage
from kto_data.rules.chat import MAY_FOLLOW, is_blank
from kto_data.rules.control_tokens import TOKEN_BEGINNINGS, may_be_control_token
from kto_data.rules.split import Shape

KNOWN_RULES = frozenset(
    "KTO101 KTO102 KTO103 KTO104 KTO105 KTO106 KTO107 KTO108 KTO109 KTO110 KTO111 KTO112"
    " KTO301 KTO302 KTO303 KTO304 KTO305 KTO306 KTO307 KTO308 KTO309 KTO402".split()
)
"""The row rules that a line is judged by here. Where any other one is selected, no line is let pass; rules about images
are asked themselves."""

_PLACEHOLDER = IMAGE_PLACEHOLDER.encode()
_BEGINNINGS = {**TOKEN_BEGINNINGS, _PLACEHOLDER[:1]: TOKEN_BEGINNINGS[_PLACEHOLDER[:1]] | {_PLACEHOLDER[:3]}}
_Told = tuple[tuple[str, ...], list[str], str]
"""The roles of all messages, the texts of the prompt, the completion."""

_NOTHING: _Told = ((), [], "")
_NO_IMAGES: list[str] = []


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


_MAY_BE_LEFT_OUT = {"images": list[str], "id": int | str | None, "source": str | None}


@dataclass(slots=True)
class Sifted:
    """What the gate says of some lines. Each column has an entry a line; that of a doubtful line means nothing."""

    prompts: list[int] = field(default_factory=list)  # 64-bit numbers, see `kto_data.digest`
    completions: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of completions, in characters
    shapes: list[tuple[bool, int, int, str]] = field(default_factory=list)  # see `Shape`
    images: dict[int, list[str]] = field(default_factory=dict)  # by index: of the records that have any
    doubtful: list[int] = field(default_factory=list)  # indices of the lines that need a closer look, ascending


class Gate:
    """Judges raw lines by the rules and the image memory of a `LineChecker`."""

    def __init__(self, checker: LineChecker) -> None:
        self._checker = checker
        self.format = checker.layout.format or Format.MESSAGES
        settings = checker.settings
        # What the layout renames or leaves out goes the slow way.
        takes = checker.layout.takes_as_is
        self._may_judge = KNOWN_RULES.issuperset(rule.code for rule in settings.rules(Stage.ROW))
        self._may_judge &= settings.codes.isdisjoint(CODES_OF_WHOLE_RECORDS) and takes(("messages", "label"))
        fields: list[Any] = [("messages", list[_Message]), ("label", bool)]
        for name, kind in _MAY_BE_LEFT_OUT.items():
            known = kind | msgspec.UnsetType if takes((name,)) else msgspec.UnsetType
            fields.append((name, known, UNSET))
        row = msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)
        self._decoder = msgspec.json.Decoder(row)
        self._no_row = row(messages=[], label=False)  # which is none to let pass

    def sift(self, block: Block) -> Sifted:
        """Judge all lines of a block."""
        rows = self._decode_all(block) if self._may_judge else None
        if rows is None:
            rows = [self._decode(block.line(index).raw) for index in range(len(block))]
        return self._judge(rows, block.path)

    def clean(self, raw: bytes, data_path: str) -> tuple[SampleDigest, int, Shape] | None:
        """The digest, the length of the completion and the shape of the one record in `raw`; None where a closer look
        is needed."""
        found = self._judge([self._decode(raw)], data_path)
        if found.doubtful:
            return None
        return SampleDigest(found.prompts[0], found.completions[0]), found.lengths[0], Shape(*found.shapes[0])

    def check(self, line: Line) -> CheckedLine:
        """What the checker says of a line; of one that is plainly clean it is known for less."""
        if self.clean(line.raw, line.path) is None:
            return self._checker.check(line)
        from kto_data.record import Record

        record = Record.model_validate_json(line.raw)
        probes = self._checker.probes(record.images, line.path)
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

    def _decode_all(self, block: Block) -> list[Any] | None:
        """The records of whole lines; None where not each line has just one, of the fields that are known here."""
        # A block that is longer than a record may be has one line, or nearly so.
        if len(block.data) > MAX_COMMAS or not are_objects_apart(block.data, block.ends):
            return None
        try:
            rows = self._decoder.decode_lines(block.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if len(rows) != len(block) or 2 * sum(map(_count_strings, rows)) != count_delimiters(block.data):
            return None
        return rows

    def _decode(self, raw: bytes) -> Any:
        """The record of a line, or one that is never let pass."""
        if not self._may_judge or len(raw) > MAX_COMMAS:  # so long that it may be too large to be parsed
            return self._no_row
        try:
            row = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._no_row
        return row if 2 * _count_strings(row) == count_delimiters(raw) else self._no_row

    def _judge(self, rows: Sequence[Any], data_path: str) -> Sifted:
        # Row by row and not column by column: so that what is made of a row is used while it is in the cache.
        sifted = Sifted()
        prompts, completions, lengths, shapes = sifted.prompts, sifted.completions, sifted.lengths, sifted.shapes
        for index, row in enumerate(rows):
            told = _told(row)
            roles, texts, completion = told or _NOTHING
            prompt_json, completion_json = as_json(texts), as_json(completion)
            images = row.images or _NO_IMAGES
            if (
                told is None
                or _may_hold_tokens(prompt_json, bool(images))
                or _may_hold_tokens(completion_json, False)
                or (images and not self._are_clean_images(images, told, data_path))
            ):
                sifted.doubtful.append(index)
            elif images:
                sifted.images[index] = images
            prompts.append(prompt_digest(roles, prompt_json, images))
            completions.append(completion_digest(completion_json))
            lengths.append(len(completion))
            shapes.append((row.label, len(row.messages), len(images), row.source or ""))
        return sifted

    def _are_clean_images(self, images: list[str], told: _Told, data_path: str) -> bool:
        _, prompt, completion = told
        placeholders = sum([text.count(IMAGE_PLACEHOLDER) for text in prompt])
        if placeholders != len(images) or IMAGE_PLACEHOLDER in completion:
            return False
        return self._checker.are_clean_images(images, data_path)


def _told(row: Any) -> _Told | None:
    """What is said in a record; None unless the roles are in order and no text is empty."""
    messages = row.messages
    roles = tuple([message.role for message in messages])
    if not _are_in_order(roles):
        return None
    texts = [message.content for message in messages]
    for text in texts:
        # A text that begins with a visible character is not empty; others are looked at.
        if not "!" <= text[:1] <= "~" and is_blank(text):
            return None
    if type(row.id) is int and not -(1 << 63) <= row.id < 1 << 64:
        return None
    return roles, texts, texts.pop()


def _may_hold_tokens(spelled: bytes, has_images: bool) -> bool:
    """Whether there may be a control token in what `as_json` made of texts, or placeholders where no images are."""
    if b"<" not in spelled and spelled.find(b"[", 1) < 0:
        return False
    return any(
        may_be_control_token(spelled, place) or (not has_images and spelled.startswith(_PLACEHOLDER, place))
        for place in find_beginnings(spelled, _BEGINNINGS)
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


@lru_cache(maxsize=4096)
def _are_in_order(roles: tuple[str, ...]) -> bool:
    """Whether the roles take turns as they should and end with the assistant."""
    if len(roles) < 2 or roles[-1] != "assistant":
        return False
    return all(role in MAY_FOLLOW.get(before, ()) for before, role in pairwise(("", *roles)))

"""One line to its rows: parsing, conversion and schema, with everything that is wrong on the way.

orjson is the judge of what is JSON. The standard parser, which takes more, only explains what orjson refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from kto_data.chunk import Line
from kto_data.convert import convert
from kto_data.draft import UNREAD, Converted, escape
from kto_data.formats import Layout
from kto_data.json_array import BYTE_ORDER_MARK, MAX_COMMAS, is_too_large
from kto_data.record import Record
from kto_data.row import Row, SchemaError, SyntaxFact, SyntaxProblem
from kto_data.safe_text import encodable

MAX_DEPTH = 100
"""Levels of nesting from which a record is refused; parsers and writers further on stop between 128 and 1024."""

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_NO_DEEPER = ("depth limit exceeded", "failed to allocate memory")
"""What orjson says of a text that is nested more deeply than it goes, the second where its end is missing too."""
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_MAX_INT_DIGITS = 18
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_ROOT_NAMES = {"list": "a list", "str": "a string", "bool": "a boolean", "NoneType": "null"}


def read_rows(line: Line, layout: Layout) -> tuple[Row, ...]:
    """The rows of a line: one, or two of a paired record. Never raises on data."""
    parsed = _parse(line)
    if not isinstance(parsed.value, dict):
        return (Row(line=line, value=None, facts=parsed.facts),)
    is_sound = all(fact.problem is SyntaxProblem.BYTE_ORDER_MARK for fact in parsed.facts)
    return tuple(_row(line, converted, parsed, is_sound) for converted in convert(parsed.value, layout))


def is_plain(raw: bytes, value: Any) -> bool:
    """Whether `value`, which orjson made of `raw`, is certain to be all that `raw` says: no key of any object is
    written twice, and nothing is nested too deeply. False may be wrong, and costs time alone."""
    keys = count_keys(value)
    return keys is not None and not may_repeat_keys(raw, keys)


def may_repeat_keys(raw: bytes, num_keys: int) -> bool:
    """Whether some object in the JSON text `raw` may name a key twice, where its parsed value has `num_keys` keys.

    False is certain: each key is written `"…":`, so that as many `":` as keys leave no room for a second one, unless
    there is space before a colon.
    """
    if raw.count(b'":') != num_keys:
        return True
    # Most lines have no space but the plain one, and to look for one byte costs next to nothing.
    is_one_line = b"\n" not in raw and b"\t" not in raw and b"\r" not in raw
    return (not is_one_line or b" :" in raw) and _SPACED_COLON.search(raw) is not None


def count_keys(value: Any) -> int | None:
    """The number of keys of all objects in a JSON value; None where it is nested too deeply."""
    try:
        return _count_keys(value, MAX_DEPTH) if isinstance(value, dict | list) else 0
    except RecursionError:
        return None


def _count_keys(value: dict[str, Any] | list[Any], levels: int) -> int:
    if not levels:
        raise RecursionError
    items, count = (value.values(), len(value)) if isinstance(value, dict) else (value, 0)
    for item in items:
        if item.__class__ is dict or item.__class__ is list:
            count += _count_keys(item, levels - 1)
    return count


@dataclass(frozen=True, slots=True)
class _Parsed:
    value: Any
    facts: tuple[SyntaxFact, ...]
    body: bytes  # without byte order mark, valid UTF-8


def _parse(line: Line) -> _Parsed:
    facts: list[SyntaxFact] = []
    body = line.raw
    if line.problem:
        return _Parsed(None, (SyntaxFact(SyntaxProblem.INVALID_JSON, line.problem),), b"")
    if body.startswith(BYTE_ORDER_MARK):
        body = body.removeprefix(BYTE_ORDER_MARK)
        facts.append(SyntaxFact(SyntaxProblem.BYTE_ORDER_MARK, "the file starts with a byte order mark (EF BB BF)"))
    if not body.strip():
        return _Parsed(None, (*facts, SyntaxFact(SyntaxProblem.BLANK_LINE, "the line is blank")), b"")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        place = len(line.raw) - len(body) + error.start + 1
        message = f"byte {place} of the line ({body[error.start]:02X}) is not UTF-8: {error.reason}"
        facts.append(SyntaxFact(SyntaxProblem.INVALID_UTF8, message))
        text = body.decode(errors="replace")
        body = text.encode()
    if is_too_large(body):
        message = f"the record is too large to be read: {body.count(b','):,} commas, {MAX_COMMAS:,} at most"
        return _Parsed(None, (*facts, SyntaxFact(SyntaxProblem.INVALID_JSON, message)), b"")
    value, found = _loads(body, text, line.number)
    facts.extend(found)
    is_json = not any(fact.problem is SyntaxProblem.INVALID_JSON for fact in found)
    if is_json and not isinstance(value, dict):
        name = _ROOT_NAMES.get(type(value).__name__, "a number")
        facts.append(SyntaxFact(SyntaxProblem.NOT_AN_OBJECT, f"the record is {name}, must be an object"))
    return _Parsed(value, tuple(facts), body)


def _loads(body: bytes, text: str, line_number: int) -> tuple[Any, list[SyntaxFact]]:
    """The value of a JSON text, and what is wrong with the text; no value where it is no JSON."""
    refusal = None
    try:
        value = orjson.loads(body)
        if is_plain(body, value):
            return value, []
    except orjson.JSONDecodeError as error:
        refusal = SyntaxFact(SyntaxProblem.INVALID_JSON, _refusal(error, line_number))
    try:
        value, facts = _look_closely(text)
    except RecursionError:
        return None, [SyntaxFact(SyntaxProblem.INVALID_JSON, _TOO_DEEP)]
    except ValueError:
        assert refusal is not None, "orjson took what the standard parser refuses"
        # How deep the standard parser goes depends on the version of Python.
        if refusal.message.startswith(_NO_DEEPER) and _is_too_deep(text):
            return None, [SyntaxFact(SyntaxProblem.INVALID_JSON, _TOO_DEEP)]
        return None, [refusal]
    if refusal is not None and not facts:
        return None, [refusal]
    return value, facts


def _is_too_deep(text: str) -> bool:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += _STEPS.get(found.group(), 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _refusal(error: orjson.JSONDecodeError, line_number: int) -> str:
    where = (
        f"column {error.colno}" if error.lineno == 1 else f"line {line_number + error.lineno - 1}, column {error.colno}"
    )
    return f"{error.msg} at {where}"


class _Object(list[tuple[str, Any]]):
    """An object with its keys as they are written, repeated ones too."""


def _look_closely(text: str) -> tuple[Any, list[SyntaxFact]]:
    """The value of a JSON text, and where it repeats a key, or holds a number or a character that JSON cannot.

    Raises `ValueError` where it is no JSON, `RecursionError` where it is nested too deeply.
    """
    tree = json.loads(text, object_pairs_hook=_Object, parse_int=_parse_int)
    facts: list[SyntaxFact] = []
    value = _settle(tree, "", facts, 0)
    return value, facts


def _parse_int(digits: str) -> int | float:
    # As orjson does: what is wider than 64 bits is a float; and never quadratic in the number of digits.
    if len(digits) <= _MAX_INT_DIGITS:
        return int(digits)
    number = int(digits) if len(digits) <= _MAX_INT_DIGITS + 2 else None
    return number if number is not None and -(2**63) <= number < 2**64 else float(digits)


def _settle(node: Any, pointer: str, facts: list[SyntaxFact], depth: int) -> Any:
    """`node` with plain dicts (the last of equal keys counts, as in every parser), its defects added to `facts`."""
    if depth >= MAX_DEPTH and isinstance(node, list):
        raise RecursionError
    if isinstance(node, _Object):
        value = {}
        for key, item in node:
            here = f"{pointer}/{escape(key)}"
            if key in value:
                message = f"the key '{encodable(key)}' is written twice"
                facts.append(SyntaxFact(SyntaxProblem.DUPLICATE_KEY, message, here))
            _note_surrogate(key, here, facts)
            value[key] = _settle(item, here, facts, depth + 1)
        return value
    if isinstance(node, list):
        return [_settle(item, f"{pointer}/{index}", facts, depth + 1) for index, item in enumerate(node)]
    if isinstance(node, str):
        _note_surrogate(node, pointer, facts)
    elif isinstance(node, float) and not math.isfinite(node):
        message = f"{json.dumps(node)} is not a JSON number, nor is one that large"
        facts.append(SyntaxFact(SyntaxProblem.NON_FINITE_NUMBER, message, pointer))
    return node


def _note_surrogate(text: str, pointer: str, facts: list[SyntaxFact]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        message = f"character {error.start + 1} of the text is half of a surrogate pair (\\u{code:04x})"
        facts.append(SyntaxFact(SyntaxProblem.LONE_SURROGATE, message, encodable(pointer)))


def _row(line: Line, converted: Converted, parsed: _Parsed, is_sound: bool) -> Row:
    value = converted.value
    text = parsed.body if is_sound and value is parsed.value else _dump(value, is_sound)
    record, errors = _check_schema(text, value, is_sound)
    if converted.missing:
        # What the user's format lacks is said in its own words, instead of what follows from it.
        errors = [error for error in errors if (error.type, error.pointer) not in _FOLLOWS_FROM_MISSING]
        errors += [SchemaError("missing", pointer, "Field required", None) for pointer in converted.missing]
        record = None
    for pointer in converted.unread:
        errors.append(SchemaError("extra_forbidden", UNREAD + pointer, "Extra inputs are not permitted", None))
    return Row(
        line=line,
        value=value,
        facts=parsed.facts,
        schema_errors=tuple(errors),
        record=record if is_sound else None,
        format=converted.format.value,
        unmapped_images=converted.unmapped_images,
        pointers=converted.pointers,
    )


_FOLLOWS_FROM_MISSING = {("missing", "/messages"), ("too_short", "/messages")}


def _dump(value: Any, is_sound: bool) -> bytes:
    if is_sound:
        return orjson.dumps(value)
    # Not to be trained on, but checked for everything else: NaN stays what it is, half a surrogate pair is replaced.
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


def _check_schema(text: bytes, value: Any, is_sound: bool) -> tuple[Record | None, list[SchemaError]]:
    """The record that a JSON text in canonical spelling is, unknown fields left aside, and all its mismatches."""
    try:
        return Record.model_validate_json(text), []
    except ValidationError as mismatch:
        errors = list(_schema_errors(mismatch, value))
    if not is_sound or any(error.type != "extra_forbidden" for error in errors):
        return None, errors
    known = orjson.loads(text)
    for error in errors:
        _remove(known, error.pointer)
    return Record.model_validate_json(orjson.dumps(known)), errors


def _remove(value: Any, pointer: str) -> None:
    *path, last = (token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])
    for token in path:
        value = value[int(token)] if isinstance(value, list) else value[token]
    del value[last]


def _schema_errors(mismatch: ValidationError, value: Any) -> Iterator[SchemaError]:
    """Pydantic's errors with JSON Pointers; where a value may have two types, those of the type that was meant."""
    for detail in mismatch.errors(include_url=False, include_context=False):
        kind, given, message = detail["type"], detail["input"], detail["msg"]
        tokens = _tokens(detail["loc"], value)
        if tokens is None or (kind == "too_short" and len(given) >= 2):  # pydantic does not count what is malformed
            continue
        pointer = "".join(f"/{escape(str(token))}" for token in tokens)
        yield SchemaError(kind, pointer, message, None if kind == "missing" else given)


def _tokens(loc: tuple[int | str, ...], value: Any) -> tuple[int | str, ...] | None:
    """The JSON Pointer of an error of pydantic's; None where it speaks of a type that was not meant."""
    if loc[0] == "id":
        return loc[:1] if loc[1] == "str" else None
    if len(loc) < 4 or loc[0] != "messages" or loc[2] != "content":
        return loc
    content = value["messages"][loc[1]]["content"]
    if not isinstance(content, list):
        return loc[:3] if loc[3] == "str" else None
    if len(loc) < 6:
        return None
    part = content[int(loc[4])]
    kind = part.get("type") if isinstance(part, dict) else None
    if loc[5] != ("ImagePart" if kind == "image" else "TextPart"):
        return None
    if isinstance(part, dict) and kind not in ("text", "image") and loc[6] != "type":
        return None  # of a part of unknown type, nothing else can be said
    return (*loc[:3], loc[4], *loc[6:])

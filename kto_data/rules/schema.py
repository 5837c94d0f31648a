"""KTO101 to KTO112: bytes, JSON and fields of one record."""

from __future__ import annotations

from collections.abc import Iterator

from kto_data.fields import MESSAGE_FIELDS, RECORD_FIELDS, REQUIRED_FIELDS
from kto_data.finding import Severity
from kto_data.row import Row, SchemaError, SyntaxProblem
from kto_data.rules.base import Defect, Fix, Stage, rule
from kto_data.rules.words import edit_distance, kind, last_token, nearest

_PART_FIELDS = ("type", "text")
_EXPECTED = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


@rule("KTO101", "invalid-json", Severity.ERROR, Stage.ROW, fix=Fix.REJECT)
def invalid_json(row: Row) -> Iterator[Defect]:
    """Each line must be one JSON value.

    A truncated download or a crashed writer leaves half a line; a reader that skips it hides the loss.

    Bad:  `{"messages": [{"role": "user", "content": "Hi"`
    Good: `{"messages": […], "label": true}`
    """
    return _syntax(row, SyntaxProblem.INVALID_JSON)


@rule("KTO102", "invalid-utf8", Severity.ERROR, Stage.ROW, fix=Fix.REJECT)
def invalid_utf8(row: Row) -> Iterator[Defect]:
    r"""Files must be UTF-8.

    Readers differ: some refuse the file, some replace the bytes, some guess an encoding. The text trained on would
    depend on the machine.

    Bad:  the byte `E9` (Latin-1 for é) in a string
    Good: the bytes `C3 A9`, or `\u00e9`
    """
    return _syntax(row, SyntaxProblem.INVALID_UTF8)


@rule("KTO103", "blank-line", Severity.WARNING, Stage.ROW, fix=Fix.SAFE)
def blank_line(row: Row) -> Iterator[Defect]:
    """A JSONL file should have no blank lines.

    Tools disagree on them: some skip, some count them as rows, some stop, so that line numbers no longer agree.

    Bad:  an empty line between two records
    Good: one record a line, no line without one
    """
    return _syntax(row, SyntaxProblem.BLANK_LINE)


@rule("KTO104", "duplicate-json-key", Severity.ERROR, Stage.ROW)
def duplicate_json_key(row: Row) -> Iterator[Defect]:
    """An object must not name a key twice.

    Every common parser keeps the last value without a word. Where the key is `label`, the record changes sides.

    Bad:  `{"messages": […], "label": true, "label": false}`
    Good: `{"messages": […], "label": false}`
    """
    return _syntax(row, SyntaxProblem.DUPLICATE_KEY)


@rule("KTO105", "utf8-bom", Severity.ERROR, Stage.ROW, fix=Fix.SAFE)
def utf8_bom(row: Row) -> Iterator[Defect]:
    """A file must not start with a byte order mark.

    Strict parsers fail on the first record, and on that one only; lax ones hide the mark in its first key.

    Bad:  the bytes `EF BB BF` before the first `{`
    Good: a file that starts with `{`
    """
    return _syntax(row, SyntaxProblem.BYTE_ORDER_MARK)


@rule("KTO106", "row-not-object", Severity.ERROR, Stage.ROW, fix=Fix.REJECT)
def row_not_object(row: Row) -> Iterator[Defect]:
    """A record must be a JSON object.

    A list, a string or `null` has no fields to read; column-wise readers turn it into a row of nulls.

    Bad:  `["Hi", "Hello.", true]`
    Good: `{"messages": […], "label": true}`
    """
    return _syntax(row, SyntaxProblem.NOT_AN_OBJECT)


@rule("KTO107", "non-finite-number", Severity.ERROR, Stage.ROW)
def non_finite_number(row: Row) -> Iterator[Defect]:
    """Numbers must be finite.

    `NaN` and `Infinity` are not JSON: Python's own parser takes them, Arrow and most others refuse the file.

    Bad:  `{"messages": […], "label": true, "metadata": {"score": NaN}}`
    Good: `{"messages": […], "label": true, "metadata": {"score": null}}`
    """
    return _syntax(row, SyntaxProblem.NON_FINITE_NUMBER)


@rule("KTO108", "lone-surrogate", Severity.ERROR, Stage.ROW, fix=Fix.UNSAFE)
def lone_surrogate(row: Row) -> Iterator[Defect]:
    r"""Text must not hold half of a surrogate pair.

    It is an emoji that was cut in the middle. It is no character, cannot be written as UTF-8, and crashes tokenizers
    and writers long after it was read.

    Bad:  `"content": "Nice \ud83d"`
    Good: `"content": "Nice \ud83d\ude00"`
    """
    return _syntax(row, SyntaxProblem.LONE_SURROGATE)


@rule("KTO109", "missing-field", Severity.ERROR, Stage.ROW, fix=Fix.REJECT)
def missing_field(row: Row) -> Iterator[Defect]:
    """A record must have `messages` and `label`, a message `role` and `content`.

    What is missing cannot be guessed: a record without a label is neither desirable nor undesirable.

    Bad:  `{"messages": […]}`
    Good: `{"messages": […], "label": true}`
    """
    for error in row.schema_errors:
        if error.type == "missing":
            name = last_token(row.user_pointer(error.pointer))
            yield Defect(f"'{name}' is missing", error.pointer, data=(("field", name),))


@rule("KTO110", "wrong-type", Severity.ERROR, Stage.ROW)
def wrong_type(row: Row) -> Iterator[Defect]:
    """Each field must have its type.

    A number where text belongs is turned into text by one tool, into null by the next, and stops a third. All wrong
    types of a record are told at once.

    Bad:  `{"role": "user", "content": 42}`
    Good: `{"role": "user", "content": "42"}`
    """
    for error in row.schema_errors:
        if error.type in ("missing", "extra_forbidden") or _belongs_to_another_rule(error):
            continue
        yield Defect(_type_message(error), error.pointer, data=(("type", kind(error.value)),))


@rule("KTO111", "unknown-field", Severity.WARNING, Stage.ROW)
def unknown_field(row: Row) -> Iterator[Defect]:
    """A record should have known fields only; what belongs to you goes under `metadata`.

    An unknown field is not read. It is an error where it looks like a required one misspelt: `lable` beside no `label`
    means that the label is lost.

    Bad:  `{"messages": […], "lable": true}`
    Good: `{"messages": […], "label": true, "metadata": {"annotator": 7}}`
    """
    for error in row.schema_errors:
        if error.type == "extra_forbidden":
            yield _unknown_field(row, error)


@rule("KTO112", "images-not-list", Severity.ERROR, Stage.ROW, fix=Fix.SAFE)
def images_not_list(row: Row) -> Iterator[Defect]:
    """`images` must be a list, also for one image.

    Of a string, some tools take the number of characters for the number of images.

    Bad:  `"images": "photos/1.jpg"`
    Good: `"images": ["photos/1.jpg"]`
    """
    for error in row.schema_errors:
        if error.pointer == "/images" and error.type != "missing":
            message = f"'images' is {kind(error.value)}, must be a list of paths"
            yield Defect(message, error.pointer, data=(("type", kind(error.value)),))


def _syntax(row: Row, problem: SyntaxProblem) -> Iterator[Defect]:
    for fact in row.facts:
        if fact.problem is problem:
            yield Defect(fact.message, fact.pointer)


def _belongs_to_another_rule(error: SchemaError) -> bool:
    """KTO112, KTO302 and KTO402 say more about these than a type can."""
    parts = error.pointer.split("/")
    is_role = len(parts) == 4 and parts[1] == "messages" and parts[3] == "role"
    return error.pointer in ("/images", "/label") or is_role


def _type_message(error: SchemaError) -> str:
    name = error.pointer or "the record"
    if error.type == "too_short" and error.pointer == "/messages":
        return f"messages has {len(error.value)} of the 2 messages needed: a prompt and the answer to it"
    if error.type in _EXPECTED:
        return f"{name} is {kind(error.value)}, must be {_EXPECTED[error.type]}"
    return f"{name} is {kind(error.value)}: {error.message[:1].lower()}{error.message[1:]}"


def _unknown_field(row: Row, error: SchemaError) -> Defect:
    name = last_token(error.pointer)
    depth = error.pointer.count("/")
    known, required = {
        1: (RECORD_FIELDS, REQUIRED_FIELDS),
        3: (MESSAGE_FIELDS, MESSAGE_FIELDS),
    }.get(depth, (_PART_FIELDS, ()))
    siblings = {other.pointer for other in row.schema_errors if other.type == "missing"}
    parent = error.pointer.rpartition("/")[0]
    for key in required:
        distance = edit_distance(name.lower(), key)
        # Beside the key itself a far likeness is chance ("level" and "label"), a near one two labels for one record.
        if distance <= 1 or (distance <= 2 and f"{parent}/{key}" in siblings):
            return Defect(
                f"unknown field '{name}': did you mean '{key}'?",
                error.pointer,
                severity=Severity.ERROR,
                data=(("field", name), ("suggestion", key)),
            )
    close = nearest(name, known)
    return Defect(
        f"unknown field '{name}'" + (f": did you mean '{close}'?" if close else ", not read"),
        error.pointer,
        data=(("field", name), *((("suggestion", close),) if close else ())),
    )

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import make_record

from kto_data.chunk import Line
from kto_data.convert import convert
from kto_data.dataset_info import load_dataset_info
from kto_data.draft import Converted
from kto_data.errors import ConfigError, KtoDataError, UsageError
from kto_data.formats import Format, Layout, Tags, detect, make_layout
from kto_data.read import read_rows
from kto_data.row import Row

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}


def values(record: dict[str, Any], layout: Layout | None = None) -> list[dict[str, Any]]:
    return [converted.value for converted in convert(record, layout or make_layout())]


def rows(record: dict[str, Any], layout: Layout | None = None) -> tuple[Row, ...]:
    return read_rows(Line("data.jsonl", 1, 0, json.dumps(record).encode()), layout or make_layout())


def told(record: dict[str, Any], layout: Layout | None = None) -> list[list[tuple[str, str]]]:
    """The schema errors of each row, with pointers in the user's own spelling."""
    return [
        [(error.type, row.user_pointer(error.pointer)) for error in row.schema_errors] for row in rows(record, layout)
    ]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (make_record(), Format.MESSAGES),
        ({"messages": [{"from": "human", "value": "Q"}]}, Format.SHAREGPT),
        ({"conversations": [], "kto_tag": True}, Format.SHAREGPT),
        ({"prompt": "Q", "completion": "A", "label": True}, Format.PROMPT_COMPLETION),
        ({"completion": "A", "label": True}, Format.PROMPT_COMPLETION),
        ({"instruction": "Q", "output": "A", "kto_tag": True}, Format.ALPACA),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Format.PAIRED),
        ({"conversations": [], "chosen": {}, "rejected": {}}, Format.PAIRED),
        ({"chosen": "A"}, Format.PAIRED),
        ({"lable": True}, Format.MESSAGES),
        ({}, Format.MESSAGES),
    ],
)
def test_the_format_is_told_by_the_columns(record: dict[str, Any], expected: Format) -> None:
    assert detect(record, make_layout()) is expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"prompt": "Q", "completion": "A", "label": True, "id": 7, "source": "x", "metadata": {"k": 1}},
            {"messages": [USER, ANSWER], "label": True, "id": 7, "source": "x", "metadata": {"k": 1}},
        ),
        (
            {"prompt": [SYSTEM, USER], "completion": [ANSWER], "label": False, "images": None},
            {"messages": [SYSTEM, USER, ANSWER], "label": False},
        ),
        (
            {"prompt": [SYSTEM, USER], "completion": "A", "label": True, "images": ["a.png", "b.png"]},
            {
                "messages": [SYSTEM, {"role": "user", "content": "<image><image>Q"}, ANSWER],
                "images": ["a.png", "b.png"],
                "label": True,
            },
        ),
        (
            {"prompt": "Q", "completion": "A", "label": True, "image": "a.png"},
            {"messages": [{"role": "user", "content": "<image>Q"}, ANSWER], "images": ["a.png"], "label": True},
        ),
        (
            {"prompt": "See <image>", "completion": "A", "label": True, "images": ["a.png", "b.png"]},
            {
                "messages": [{"role": "user", "content": "See <image>"}, ANSWER],
                "images": ["a.png", "b.png"],
                "label": True,
            },
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "kto_tag": True},
            {"messages": [USER, ANSWER], "label": True},
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Q"},
                    {"from": "function_call", "value": "f()"},
                    {"from": "observation", "value": "1"},
                    {"from": "gpt", "value": "A"},
                ],
                "system": "S",
                "tools": '[{"name": "f"}]',
                "images": ["a.png"],
                "label": False,
            },
            {
                "messages": [
                    SYSTEM,
                    USER,
                    {"role": "assistant", "content": "f()"},
                    {"role": "tool", "content": "1"},
                    ANSWER,
                ],
                "tools": [{"name": "f"}],
                "images": ["a.png"],
                "label": False,
            },
        ),
        (
            {"conversations": [USER, ANSWER], "system": "", "tools": "", "images": None, "kto_tag": True},
            {"messages": [USER, ANSWER], "label": True},
        ),
        (
            {
                "instruction": "Q",
                "input": "more",
                "output": "A",
                "kto_tag": True,
                "system": "S",
                "history": [["1", "2"]],
            },
            {
                "messages": [
                    SYSTEM,
                    {"role": "user", "content": "1"},
                    {"role": "assistant", "content": "2"},
                    {"role": "user", "content": "Q\nmore"},
                    ANSWER,
                ],
                "label": True,
            },
        ),
        (
            {"instruction": "", "input": "Q", "output": "A", "history": [], "kto_tag": False},
            {"messages": [USER, ANSWER], "label": False},
        ),
        (
            {"instruction": "", "output": "A", "label": True},
            {"messages": [{**USER, "content": ""}, ANSWER], "label": True},
        ),
    ],
)
def test_a_record_of_any_format_comes_out_canonical(record: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values(record) == [expected]
    (row,) = rows(record)
    assert (row.schema_errors, row.record is not None) == ((), True)


BAD = {"role": "assistant", "content": "B"}


@pytest.mark.parametrize(
    ("record", "chosen", "rejected"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [USER, ANSWER], [USER, BAD]),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]}, [USER, ANSWER], [USER, BAD]),
        ({"prompt": "Q", "chosen": [ANSWER], "rejected": [BAD]}, [USER, ANSWER], [USER, BAD]),
        ({"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, [USER, ANSWER], [USER, BAD]),
        ({"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, [USER, ANSWER], [USER, BAD]),
        ({"chosen": [USER, ANSWER], "rejected": [USER, BAD]}, [USER, ANSWER], [USER, BAD]),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
                "system": "S",
            },
            [SYSTEM, USER, ANSWER],
            [SYSTEM, USER, BAD],
        ),
        ({"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"}, [USER, ANSWER], [USER, BAD]),
        (
            {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
            [USER, ANSWER],
            [USER, BAD],
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is black."},
            [{"role": "user", "content": "The sky is "}, {"role": "assistant", "content": "blue."}],
            [{"role": "user", "content": "The sky is "}, {"role": "assistant", "content": "black."}],
        ),
    ],
)
def test_a_pair_becomes_two_records_the_chosen_one_desirable(
    record: dict[str, Any], chosen: list[Any], rejected: list[Any]
) -> None:
    record = {**record, "id": "p"}
    assert values(record) == [
        {"messages": chosen, "label": True, "id": "p"},
        {"messages": rejected, "label": False, "id": "p"},
    ]
    assert all(row.record is not None and row.format == "paired" for row in rows(record))


def test_a_transcript_keeps_its_texts_to_the_letter() -> None:
    (chosen, _) = values({"chosen": "\n\nHuman: a\n\n b \n\nAssistant: c\n\nHuman:\n\nAssistant: d ", "rejected": "x"})
    assert [message["content"] for message in chosen["messages"]] == ["a\n\n b ", "c", "", "d "]


def test_images_of_a_pair_go_to_both() -> None:
    record = {"prompt": "Q", "chosen": "A", "rejected": "B", "images": ["a.png"]}
    assert [(v["images"], v["messages"][0]["content"]) for v in values(record)] == [(["a.png"], "<image>Q")] * 2


@pytest.mark.parametrize("label", ["true", 1, 0.0, None, [], "false"])
@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ANSWER], "label": ...},
        {"prompt": "Q", "completion": "A", "label": ...},
        {"conversations": [USER, ANSWER], "kto_tag": ...},
        {"instruction": "Q", "output": "A", "kto_tag": ...},
    ],
)
def test_a_label_is_never_coerced(record: dict[str, Any], label: Any) -> None:
    record = {key: label if value is ... else value for key, value in record.items()}
    (value,) = values(record)
    assert value["label"] is label
    assert told(record) == [[("bool_type", "/kto_tag" if "kto_tag" in record else "/label")]]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Q", "label": True}, [[("missing", "/completion")]]),
        ({"prompt": 5, "completion": "A", "label": True}, [[("string_type", "/prompt")]]),
        ({"prompt": [5], "completion": "A", "label": True}, [[("model_type", "/prompt/0")]]),
        ({"prompt": "Q", "completion": [{"role": "gpt"}], "label": True}, [
            [("literal_error", "/completion/0/role"), ("missing", "/completion/0/content")]
        ]),
        ({"prompt": "Q", "completion": "A", "label": True, "image": 5}, [[("string_type", "/image")]]),
        ({"prompt": "Q", "completion": "A", "label": True, "a~/b": 5}, [[("extra_forbidden", "/a~0~1b")]]),
        ({"conversations": [{"from": "humna", "value": 5}, 7], "label": True}, [
            [
                ("literal_error", "/conversations/0/from"),
                ("string_type", "/conversations/0/value"),
                ("model_type", "/conversations/1"),
            ]
        ]),
        ({"conversations": {}, "kto_tag": True}, [[("tuple_type", "/conversations")]]),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt"}]}, [
            [("missing", "/conversations/1/value"), ("missing", "/kto_tag")]
        ]),
        ({"conversations": [{"from": "human", "value": "Q", "role": "x"}, ANSWER], "kto_tag": True, "label": True}, [
            [("extra_forbidden", "/conversations/0/role"), ("extra_forbidden", "/label")]
        ]),
        ({"instruction": 5, "input": "Q", "output": {}, "kto_tag": True}, [
            [("string_type", "/instruction"), ("string_type", "/output")]
        ]),
        ({"instruction": "Q", "input": 5, "output": "A", "kto_tag": True}, [[("string_type", "/input")]]),
        ({"output": "A", "kto_tag": True}, [[("missing", "/instruction")]]),
        ({"instruction": "Q", "kto_tag": True}, [[("missing", "/output")]]),
        ({"instruction": "Q", "output": "A", "kto_tag": True, "history": "no list"}, [[("model_type", "/history")]]),
        ({"instruction": "Q", "output": "A", "kto_tag": True, "history": [["1", 2], ["3"]]}, [
            [("string_type", "/history/0/1"), ("model_type", "/history/1")]
        ]),
        ({"conversations": [USER, ANSWER], "kto_tag": True, "tools": "no list"}, [[("tuple_type", "/tools")]]),
        ({"prompt": "Q", "chosen": "A"}, [[], [("missing", "/rejected")]]),
        ({"prompt": "Q", "chosen": "A", "rejected": 5}, [[], [("string_type", "/rejected")]]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "label": True}, [[("extra_forbidden", "/label")]] * 2),
        ({"prompt": "P", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, [[("extra_forbidden", "/prompt")]] * 2),
        ({"chosen": "A"}, [[("too_short", "/chosen")], [("missing", "/rejected")]]),
        ({"chosen": "A", "rejected": "B"}, [[("too_short", "/chosen")], [("too_short", "/rejected")]]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_the_users_own_spelling(record: dict[str, Any], expected: list[Any]) -> None:
    assert told(record) == expected


def test_columns_can_be_mapped_by_hand() -> None:
    record = {"dialog": [USER, ANSWER], "thumb": True, "pics": [], "id": "x", "images": ["other.png"]}
    layout = make_layout("messages", {"messages": "dialog", "label": "thumb", "images": "pics"})
    assert values(record, layout) == [{"messages": [USER, ANSWER], "label": True, "images": [], "id": "x"}]
    assert told(record, layout) == [[("extra_forbidden", "/images")]]


def test_a_mapped_column_counts_for_detection() -> None:
    assert (
        detect({"question": "Q", "completion": "A"}, make_layout("auto", {"prompt": "question"}))
        is Format.PROMPT_COMPLETION
    )
    assert values({"question": "Q", "completion": "A", "label": True}, make_layout("auto", {"prompt": "question"})) == [
        {"messages": [USER, ANSWER], "label": True}
    ]


@pytest.mark.parametrize(
    ("format", "columns", "hint"),
    [
        ("sharegtp", {}, "did you mean 'sharegpt'?"),
        ("auto", {"image_paths": "x"}, None),
        ("messages", {"imagse": "x"}, "did you mean 'images'?"),
        ("messages", {"prompt": "x"}, None),
    ],
)
def test_an_unknown_format_or_field_is_a_usage_error(format: str, columns: dict[str, str], hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        make_layout(format, columns)
    assert caught.value.hint == hint if hint else caught.value.hint


def test_what_no_field_takes_is_not_mistaken_for_the_field_of_its_name() -> None:
    (row,) = rows({"conversations": [USER, ANSWER], "kto_tag": True, "label": "no"})
    assert [(error.type, error.pointer) for error in row.schema_errors] == [("extra_forbidden", "/unread/label")]
    assert (row.user_pointer("/unread/label"), row.user_pointer("/label"), row.label) == ("/label", "/kto_tag", True)


def test_as_is_means_that_conversion_changes_nothing() -> None:
    record = make_record(images=[], id=1)
    for layout in (make_layout(), make_layout("messages")):
        assert layout.takes_as_is(record.keys())
        assert convert(record, layout) == (Converted(value=record, format=Format.MESSAGES),)
    for layout in (make_layout("sharegpt"), make_layout("auto", {"images": "pics"})):
        assert not layout.takes_as_is(record.keys())
    assert not make_layout().takes_as_is(["prompt"])


def dataset_info(folder: Path, **entry: Any) -> Path:
    path = folder / "dataset_info.json"
    path.write_text(
        json.dumps({"mine": {"file_name": "mine.json", **entry}, "hub": {"hf_hub_url": "org/data"}, "odd": 5})
    )
    return path


OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def test_dataset_info_gives_layout_and_data_file(tmp_path: Path) -> None:
    columns = {"messages": "messages", "kto_tag": "good", "images": "pics"}
    path = dataset_info(tmp_path, formatting="sharegpt", columns=columns, tags=OPENAI_TAGS)
    layout, data = load_dataset_info(path, "mine")
    assert data == tmp_path / "mine.json"
    assert layout == Layout(
        format=Format.SHAREGPT,
        columns={"messages": "messages", "label": "good", "images": "pics"},
        tags=Tags(role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant"),
        mapped_only=True,
    )
    assert pickle.loads(pickle.dumps(layout)) == layout
    record = {"messages": [USER, ANSWER], "good": True, "pics": ["a.png"], "id": 5, "label": "?"}
    assert values(record, layout) == [{"messages": [USER, ANSWER], "label": True, "images": ["a.png"]}]


def test_a_column_that_is_not_mapped_is_absent_and_images_among_them_are_noticed(tmp_path: Path) -> None:
    path = dataset_info(
        tmp_path, formatting="sharegpt", columns={"messages": "messages", "kto_tag": "label"}, tags=OPENAI_TAGS
    )
    layout, _ = load_dataset_info(path, "mine")
    assert layout.takes_as_is({"messages", "label"})
    assert not layout.takes_as_is({"messages", "label", "images"})
    (row,) = rows({"messages": [USER, ANSWER], "label": True, "images": ["a.png"], "system": "S", "x": 1}, layout)
    assert (row.value, row.unmapped_images) == ({"messages": [USER, ANSWER], "label": True}, True)
    (row,) = rows({"messages": [USER, ANSWER], "label": True, "images": []}, layout)
    assert (row.schema_errors, row.unmapped_images) == ((), False)


def test_a_label_that_is_not_mapped_is_missing(tmp_path: Path) -> None:
    layout, _ = load_dataset_info(dataset_info(tmp_path, formatting="sharegpt"), "mine")
    record = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "kto_tag": True}
    assert told(record, layout) == [[("missing", "/label")]]


def test_alpaca_columns_of_dataset_info_go_by_its_names(tmp_path: Path) -> None:
    columns = {"prompt": "q", "query": "more", "response": "a", "kto_tag": "good", "history": "before"}
    layout, _ = load_dataset_info(dataset_info(tmp_path, columns=columns), "mine")
    record = {"q": "Q", "more": "", "a": "A", "good": False, "before": [], "input": "not mapped"}
    assert values(record, layout) == [{"messages": [USER, ANSWER], "label": False}]


@pytest.mark.parametrize(
    ("entry", "record"),
    [
        (
            {"formatting": "sharegpt", "columns": {"messages": "chat", "chosen": "good", "rejected": "bad"}},
            {
                "chat": [{"from": "human", "value": "Q"}],
                "good": {"from": "gpt", "value": "A"},
                "bad": {"from": "gpt", "value": "B"},
            },
        ),
        (
            {"columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
            {"q": "Q", "good": "A", "bad": "B", "chosen": "not mapped"},
        ),
    ],
    ids=["sharegpt", "alpaca"],
)
def test_rankings_of_dataset_info_are_unpaired(tmp_path: Path, entry: dict[str, Any], record: dict[str, Any]) -> None:
    layout, _ = load_dataset_info(dataset_info(tmp_path, ranking=True, **entry), "mine")
    assert values(record, layout) == [
        {"messages": [USER, ANSWER], "label": True},
        {"messages": [USER, BAD], "label": False},
    ]


@pytest.mark.parametrize(
    ("entry", "name", "what", "hint"),
    [
        ({}, "mien", "has no data set 'mien'", "did you mean 'mine'?"),
        ({}, "zzz", "has no data set 'zzz'", "data sets with a local file: mine"),
        ({}, "hub", "data set 'hub' is not a local file but at hf_hub_url 'org/data'", None),
        ({}, "odd", "the entry of data set 'odd' is not an object", None),
        ({"file_name": None}, "mine", "data set 'mine' has no file_name", None),
        ({"formatting": "openai"}, "mine", "formatting 'openai' is not known", None),
        ({"columns": {"image": "x"}}, "mine", "columns: unknown key 'image'", "did you mean 'images'?"),
        ({"columns": {"images": 5}}, "mine", "columns: images is 5", None),
        ({"tags": {"role": "x"}}, "mine", "tags: unknown key 'role'", "did you mean 'role_tag'?"),
        ({"tags": []}, "mine", "tags is not an object", None),
        ({"ranking": "yes"}, "mine", "ranking is 'yes'", None),
        ({"ranking": True}, "mine", "is a ranking, but maps no chosen and rejected columns", None),
    ],
)
def test_an_entry_that_cannot_be_followed_is_a_config_error(
    tmp_path: Path, entry: dict[str, Any], name: str, what: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset_info(dataset_info(tmp_path, **entry), name)
    assert what in caught.value.what
    assert caught.value.hint == hint if hint else caught.value.hint


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_dataset_info_that_cannot_be_read_is_an_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "dataset_info.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KtoDataError) as caught:
        load_dataset_info(path, "mine")
    assert str(path) in caught.value.what

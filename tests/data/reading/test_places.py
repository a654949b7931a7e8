"""Where a value stands: in its file, in its record, and in the messages made of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.reading.formats import detect_format, parse_conversation
from finetune.data.reading.json_paths import line_and_column, offset_of
from finetune.data.reading.record import Record
from finetune.data.reading.strict_json import DEEPEST, decode_at
from finetune.errors import TemplateError

TEXT = '{"a": [1, {"b": "x,]}", "好": null}], "c": "[1, 2]"}'
OFFSETS = {
    (): 0,
    ("a",): TEXT.index("[1, {"),
    ("a", 0): TEXT.index("1, {"),
    ("a", 1): TEXT.index('{"b"'),
    ("a", 1, "b"): TEXT.index('"x'),
    ("a", 1, "好"): TEXT.index("null"),
    ("c",): TEXT.index('"[1'),
    ("d",): 0,
    ("a", 7): TEXT.index("[1, {"),
    ("a", "b"): TEXT.index("[1, {"),
    ("a", 1, "d", 3): TEXT.index('{"b"'),
    ("c", 0): TEXT.index('"[1'),
    (0,): 0,
}


@pytest.mark.parametrize(("path", "offset"), OFFSETS.items(), ids=str)
def test_a_path_leads_to_the_value_or_to_the_innermost_that_is_there(path, offset):
    assert offset_of(TEXT, 0, path) == offset
    assert offset_of(f"[[], {TEXT}]", 5, path) == offset + 5


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)


def paths(value: Any, before: tuple = ()) -> list[tuple[tuple, Any]]:
    """Every value inside `value` and the path to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [found for key, item in items for found in paths(item, (*before, key))]
    return [(before, value), *inner]


@settings(max_examples=200)
@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_every_value_of_any_json_is_found_where_it_stands(value, indent, is_ascii):
    text = " " + json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    for path, item in paths(value):
        assert decode_at(text, offset_of(text, 0, path))[0] == item


@pytest.mark.parametrize(("offset", "place"), [(0, (1, 1)), (3, (1, 4)), (4, (2, 1)), (7, (4, 1)), (8, (4, 2))])
def test_lines_and_columns_are_counted_from_one_and_from_any_known_place(offset, place):
    text = "abc\nd\n\nxyz"
    assert line_and_column(text, offset) == place
    for known in range(offset):
        assert line_and_column(text, offset, known, *line_and_column(text, known)) == place


AT = [
    (
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
        ["messages 0", "messages 1"],
    ),
    ({"conversations": [{"from": "human", "value": "q"}], "system": "s"}, ["system", "conversations 0"]),
    (
        {"history": [["q", "a"]], "instruction": "r", "output": "b"},
        ["history 0 0", "history 0 1", "instruction", "output"],
    ),
    ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]}, ["prompt", "completion 0"]),
    (
        {
            "messages": [
                {"role": "system", "content": "", "tools": [{"name": "f"}]},
                {"role": "user", "content": "q"},
            ]
        },
        ["messages 1"],
    ),
]


@pytest.mark.parametrize(("data", "places"), AT, ids=lambda value: " ".join(value))
def test_a_message_knows_where_in_its_record_it_stands(data, places):
    read = parse_conversation(Record(data, "f.jsonl", 1), detect_format(data)[0])
    assert [" ".join(map(str, message.at)) for message in read.messages] == places


def test_what_a_template_cannot_write_has_the_place_of_its_message(glm4):
    calls = '{"role": "assistant", "tool_calls": [{"name": "f"}, {"name": "g"}]}'
    text = '{"messages": [{"role": "user", "content": "q"},\n ' + calls + "]}"
    record = Record(json.loads(text), "f.json", 7, text)
    with pytest.raises(TemplateError, match="one tool call per turn") as refusal:
        glm4.render(parse_conversation(record, "messages"))
    assert refusal.value.at == ("messages", 1)
    assert str(record.malformed("E301", "no", refusal.value.at)) == "f.json:8:2: E301 no"


def test_a_row_has_no_column_and_its_field_is_named():
    row = Record({"messages": "[]", "output": ""}, "f.parquet", 3)
    assert (
        str(row.malformed("E203", "it is empty", ("messages", 0))) == "f.parquet:3: E203 messages: it is empty"
    )
    assert str(row.malformed("E205", "output is empty", ("output",))) == "f.parquet:3: E205 output is empty"


def test_a_value_as_deep_as_may_be_is_read():
    text = '{"a": ' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}"
    assert decode_at(text, 0)[1] == len(text)

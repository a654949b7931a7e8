"""Whatever a file holds, it is read or refused with its place; never a traceback."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.chat.messages import Conversation
from finetune.data.reading.formats import PlainText, detect_format, parse_conversation
from finetune.data.reading.intake import Intake
from finetune.data.reading.records import Malformed, Record, read_records
from finetune.errors import DataError

FIELDS = [
    "messages",
    "conversations",
    "from",
    "value",
    "role",
    "content",
    "tools",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "metadata",
    "train",
    "weight",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "prompt",
    "completion",
    "text",
    "image",
    "images",
    "type",
    "image_url",
    "url",
    "reasoning_content",
    "parameters",
    "description",
    "id",
]
SPEAKERS = ["user", "assistant", "tool", "observation", "system", "human", "gpt", "function_call"]
CALLS = ['{"name": "f", "arguments": {}}', '{"name": "", "arguments": {}}']
WORDS = st.sampled_from([*SPEAKERS, *CALLS, "f", "", " ", "{}", "[]", "text", "image", "data:x,%", "<image>"])
SCALARS = st.none() | st.booleans() | st.integers(-1, 2) | st.just(0.5) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=20,
)
TURNS = st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5) | VALUES, max_size=5)
RECORDS = st.dictionaries(st.sampled_from(FIELDS), VALUES | TURNS, max_size=6)


FORMATS = st.sampled_from(["messages", "sharegpt", "alpaca", "prompt-completion", "text"])


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """Run a test with `few` examples, and with `many` in the long run."""
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.long)])


@few_or_many(150, 5000)
def test_any_record_in_any_format_is_a_conversation_or_refused_with_its_place(examples):
    @settings(max_examples=examples)
    @given(RECORDS, FORMATS)
    def holds(data, form):
        try:
            found = parse_conversation(Record(data, "f.jsonl", 3), form)
        except DataError as error:
            assert str(error).startswith("f.jsonl:3: ")
        else:
            assert isinstance(found, Conversation | PlainText)

    holds()


@few_or_many(100, 3000)
def test_any_record_has_a_format_or_is_told_what_was_expected(examples):
    @settings(max_examples=examples)
    @given(RECORDS)
    def holds(data):
        try:
            found, why = detect_format(data)
        except ValueError as error:
            assert "no known format" in str(error)
        else:
            assert found and why

    holds()


SIGNS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\r\n", b" "]
ODDITIES = [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xd6", b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"null"]
PIECES = [b'"a"', b'"a": 1', b'{"text": "x"}', "好".encode(), b'{"a": 1, "a": 2}']
FRAGMENTS = st.sampled_from([*SIGNS, *ODDITIES, *PIECES])


@few_or_many(500, 20_000)
def test_any_bytes_are_records_or_mistakes_with_a_place_in_the_file(tmp_path, examples):
    @settings(max_examples=examples)
    @given(st.lists(FRAGMENTS, max_size=14).map(b"".join), st.sampled_from(["a.jsonl", "a.json", "a.txt"]))
    def holds(content, name):
        path = tmp_path / name
        path.write_bytes(content)
        for found in read_records(path):
            assert 1 <= found.line <= content.count(b"\n") + 1
            if isinstance(found, Malformed):
                assert found.column >= 1 and found.reason
            else:
                json.dumps(found.data).encode()

    holds()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b'{"text": "x"}', b"{", b"", b"[1]", b'{"text": 3}', b"\xff"]), max_size=12))
def test_every_line_that_is_not_blank_is_a_row(tmp_path, lines):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "first"}', *lines]))
    intake = Intake(path)
    good = list(intake.conversations())
    assert intake.rows == 1 + sum(line != b"" for line in lines)
    assert len(good) + len(intake.problems) == intake.rows


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_an_array_cut_off_anywhere_is_never_taken_for_whole(tmp_path, cut):
    whole = json.dumps([{"text": "一"}, {"text": "二"}, {"text": "三"}], ensure_ascii=False, indent=1).encode()
    path = tmp_path / "a.json"
    path.write_bytes(whole[: len(whole) - 1 - cut])
    assert any(isinstance(found, Malformed) for found in read_records(path)) or cut >= len(whole) - 1

"""From the leaderboard's files, here two written anew in their form, to rows for training and for the test."""

import json
from pathlib import Path

import pytest

from finetune.chat.messages import ToolCall
from finetune.data.reading.formats import parse_conversation
from finetune.data.reading.records import Record
from finetune.demo import calling

PARAMETERS = {
    "type": "dict",
    "required": ["city", "nights"],
    "properties": {
        "city": {"type": "string"},
        "nights": {"type": "integer"},
        "most": {"type": "float"},
        "spot": {"type": "tuple", "items": {"type": "float"}},
        "note": {"type": "any"},
        "guests": {"type": "array", "items": {"type": "dict", "properties": {"name": {"type": "string"}}}},
        "room": {"type": "dict", "properties": {"beds": {"type": "integer"}, "view": {"type": "string"}}},
    },
}
ASKED = [
    {
        "id": "live_simple_0",
        "question": [[{"role": "user", "content": "Two nights in Rome for Ada, please."}]],
        "function": [{"name": "hotel.book", "description": "Book a room.", "parameters": PARAMETERS}],
    },
    {
        "id": "live_simple_1",
        "question": [[{"role": "user", "content": "Any room in Oslo."}]],
        "function": [{"name": "hotel.book", "description": "Book a room.", "parameters": PARAMETERS}],
    },
]
ACCEPTED = [
    {
        "city": ["Rome", "Roma"],
        "nights": [2],
        "most": ["", 99.5],
        "spot": [[41.9, 12.5]],
        "note": [""],
        "guests": [[{"name": ["Ada", "ada"]}]],
        "room": [{"beds": [1, 2], "view": ["sea", ""]}],
    },
    {"city": ["Oslo"], "nights": []},  # nothing is accepted: not to be learnt
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    answers = [
        {"id": a["id"], "ground_truth": [{"hotel.book": b}]} for a, b in zip(ASKED, ACCEPTED, strict=True)
    ]
    (tmp_path / "possible_answer").mkdir()
    for folder, rows in ((tmp_path, ASKED), (tmp_path / "possible_answer", answers)):
        for category, few in (("live_simple", rows), ("live_multiple", [])):
            text = "".join(f"{json.dumps(row)}\n" for row in few)
            (folder / f"BFCL_v4_{category}.json").write_text(text)
    return tmp_path


def test_a_task_is_learnt_with_the_first_accepted_values_and_what_may_be_left_out_is(data: Path) -> None:
    task = next(calling.tasks(data, "live_simple"))
    assert task.call() == ToolCall(
        "hotel.book",
        {"city": "Rome", "nights": 2, "spot": [41.9, 12.5], "guests": [{"name": "Ada"}], "room": {"beds": 1}},
    )
    assert task.why_wrong([task.call()]) is None
    assert task.why_wrong([ToolCall("hotel.book", {**task.call().arguments, "nights": 3})]) is not None


def test_only_tasks_that_have_an_answer_and_are_short_enough_are_trained_on(data: Path) -> None:
    names = {longest: [task.name for task in calling.training_tasks(data, longest)] for longest in (100, 5000)}
    assert names == {100: [], 5000: ["live_simple_0"]}


def test_a_row_is_a_conversation_with_json_schema_and_the_accepted_answers(data: Path) -> None:
    row = next(calling.tasks(data, "live_simple")).row()
    parameters = row["tools"][0]["function"]["parameters"]
    types = {key: schema.get("type") for key, schema in parameters["properties"].items()}
    assert parameters["type"] == "object"
    assert types == {
        "city": "string",
        "nights": "integer",
        "most": "number",
        "spot": "array",
        "note": None,
        "guests": "array",
        "room": "object",
    }
    conversation = parse_conversation(Record(row, "train.jsonl", 1), "messages")
    assert [message.role for message in conversation.messages] == ["user", "assistant"]
    assert conversation.messages[1].accepted == ({"hotel.book": ACCEPTED[0]},)

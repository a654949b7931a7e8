"""What is said of conversations that can be learnt but look odd; nothing is said of the others."""

import json
import socket

import pytest

from finetune.chat.messages import Conversation
from finetune.data.checking.review import review
from finetune.data.reading.formats import detect_format, parse_conversation
from finetune.data.reading.record import Record

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
}


def parse(data) -> Conversation:
    read = parse_conversation(Record(data, "f.jsonl", 1), detect_format(data)[0])
    assert isinstance(read, Conversation)
    return read


def said(data) -> list[tuple]:
    source = parse_conversation(Record(data, "f.jsonl", 1), detect_format(data)[0])
    return [(remark.code, remark.path) for remark in review(source)]


def turns(roles: str, **more):
    """u, a, s: a turn with a text of its own; c: a call of f; t: its result."""
    spelt = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    call = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    listed = [call if r == "c" else {"role": spelt[r], "content": f"text {i}"} for i, r in enumerate(roles)]
    return {"messages": listed, **more}


TOOLS = {"tools": [{"name": "f"}]}


@pytest.mark.parametrize("roles", ["ua", "sua", "uaua", "suaua", "a", "au", "aua", "uaus"])
def test_turns_in_order_need_no_remark(roles):
    assert said(turns(roles)) == []


@pytest.mark.parametrize("roles", ["uc", "ucta", "uctcta", "uctauct", "suctua"])
def test_calls_with_their_results_need_no_remark(roles):
    assert said(turns(roles, **TOOLS)) == []


ODD = {
    "uua": ("W520", 1),
    "uaau": ("W521", 2),
    "uauua": ("W520", 3),
    "usua": ("W520", 2),
    "uaa": ("W521", 2),
    "ucua": ("W526", 2),
    "uca": ("W526", 2),
    "uctcua": ("W526", 4),
}


@pytest.mark.parametrize(("roles", "remark"), ODD.items(), ids=ODD)
def test_turns_out_of_order_are_remarked_on_at_the_turn(roles, remark):
    assert said(turns(roles, **TOOLS)) == [(remark[0], ("messages", remark[1]))]


def test_of_two_calls_at_once_the_one_without_a_result_is_named():
    calls = {"role": "assistant", "tool_calls": [{"name": "f"}, {"name": "g"}]}
    data = turns("uctu", tools=[{"name": "f"}, {"name": "g"}])
    data["messages"][1] = calls
    (remark,) = review(parse(data))
    assert remark.message == "message 4 (user) comes before the result of the call of 'g'"


@pytest.mark.parametrize("roles", ["u", "su", "uu"])
def test_a_conversation_that_nobody_answers_is_remarked_on(roles):
    assert said(turns(roles))[0] == ("W522", ())


def test_a_call_without_declared_tools_is_remarked_on():
    assert said(turns("uc")) == [("W523", ("messages", 1))]


ARGUMENTS = [
    ({"city": "Rome"}, []),
    ({"city": "Rome", "days": 2, "more": None}, []),
    ({}, ["'city' is a required property"]),
    ({"city": 3}, ["city: 3 is not of type 'string'"]),
    ({"city": "Rome", "days": 0}, ["days: 0 is less than the minimum of 1"]),
    ({"days": "x"}, ["days: 'x' is not of type 'integer'", "'city' is a required property"]),
]


@pytest.mark.parametrize(("arguments", "misfits"), ARGUMENTS)
def test_arguments_are_compared_with_the_schema_of_the_tool(arguments, misfits):
    data = turns("uc", tools=[{"name": "f", "parameters": SCHEMA}])
    data["messages"][1] = {
        "role": "assistant",
        "tool_calls": [{"name": "f", "arguments": json.dumps(arguments)}],
    }
    remarks = list(review(parse(data)))
    assert {remark.message.partition("schema: ")[2] for remark in remarks} == set(misfits)
    assert all(remark.code == "W524" for remark in remarks)
    assert all(remark.path == ("messages", 1, "tool_calls", 0) for remark in remarks)


WRONG_SCHEMAS = [
    ({"type": "dict"}, "type: 'dict' is no type"),
    ({"properties": {"a": {"type": "str"}}}, "properties.a.type: 'str' is no type"),
    ({"type": "object", "required": True}, "required: True is not of type 'array'"),
    ({"$ref": "#/nowhere"}, "its $ref leads nowhere"),
    ({"$ref": "https://example.org/schema.json"}, "its $ref leads nowhere"),
    ({"$ref": "#"}, "it refers to itself without end"),
    ({"properties": {"a": {"pattern": "("}}}, "properties.a.pattern: '(' is not a 'regex'"),
    (
        {"$schema": "http://json-schema.org/draft-04/schema#", "patternProperties": {"(": {}}},
        "the pattern '(' is no regular expression",
    ),
]


@pytest.mark.parametrize(("schema", "reason"), WRONG_SCHEMAS, ids=lambda value: str(value)[:40])
def test_a_schema_that_is_none_is_remarked_on_and_never_looked_up_on_the_network(schema, reason, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    data = turns("uc", tools=[{"name": "f", "parameters": schema}])
    data["messages"][1]["tool_calls"][0]["arguments"] = {"a": "x"}
    (remark,) = review(parse(data))
    assert (remark.code, remark.path) == ("W525", ("tools",))
    assert reason in remark.message


@pytest.mark.parametrize(
    "mark", ["<|user|>", "<|im_end|>", "<|observation|>", "[INST]", "<end_of_turn>", "[gMASK]"]
)
def test_marks_of_a_chat_template_in_an_answer_are_remarked_on(mark):
    data = {"conversations": [{"from": "human", "value": mark}, {"from": "gpt", "value": f"a {mark}"}]}
    assert said(data) == [("W527", ("conversations", 1, "content"))]


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
        "[gMASK]<sop><|user|>\nHi<|assistant|>\nHello<|user|>",
        "### Human: Hi### Assistant: Hello",
        "### Instruction:\nHi\n\n### Response:\nHello",
        "<s> Hi </s>",
    ],
)
def test_marks_of_a_chat_template_in_a_document_are_remarked_on(text):
    assert said({"text": text}) == [("W527", ())]


@pytest.mark.parametrize("text", ["### Response times", "<s>old</s> new", "a <|x|> b", "[INSTANT]"])
def test_other_signs_in_a_document_are_not(text):
    assert said({"text": text}) == []


@pytest.mark.parametrize(
    ("answer", "tools", "odd"),
    [
        ("f(x=1)", [{"name": "f"}], True),
        ('f\n{"x": 1', [{"name": "f"}], True),
        ("<tool_call>f</tool_call>", [{"name": "f"}], True),
        ("<tool_call>f</tool_call>", [], True),
        ('{"name": "f", "arguments": {}}', [], True),
        ("The half(x) of f.", [{"name": "f"}], False),
        ('{"name": "f"}', [], False),
        ("f(x=1)", [], False),
    ],
)
def test_an_answer_that_looks_like_a_call_and_is_none_is_remarked_on(answer, tools, odd):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]
    codes = [code for code, _ in said({"messages": turns, "tools": tools})]
    assert codes == ["W531"] * odd


@pytest.mark.parametrize("text", ["a < b", "[1, 2]", "<b>x</b>", "<|", "<user>", "INST"])
def test_other_brackets_in_an_answer_are_not(text):
    assert said({"prompt": "q", "completion": text}) == []


def test_an_answer_that_repeats_its_question_is_remarked_on():
    assert said({"instruction": "Say it.", "output": "Say it."}) == [("W528", ("output",))]


def test_a_remark_names_the_message_as_the_record_counts_it():
    data = turns("suu", tools=[])
    data["messages"][0] = {"role": "system", "content": "", "tools": [{"name": "f"}]}
    assert "message 3 is a second user turn in a row" in [remark.message for remark in review(parse(data))]

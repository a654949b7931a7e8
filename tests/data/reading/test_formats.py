"""One conversation, however it is written; and what is no conversation, with the reason."""

import json
from pathlib import Path

import pytest

from finetune.chat.messages import Conversation, Image, Message, Tool, ToolCall
from finetune.data.images.access import Access, settled
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.formats import PlainText, detect_format, parse_conversation
from finetune.data.reading.record import Record
from finetune.data.reading.tables import without_nulls
from finetune.errors import DataError

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "天气", "parameters": SCHEMA}
TOOL = Tool("get_weather", "天气", SCHEMA)
ARGUMENTS = {"city": "北京"}
CALL = ToolCall("get_weather", ARGUMENTS)


def parse(data, format=None):  # noqa: A002
    return parse_conversation(Record(data, "train.jsonl", 17), format or detect_format(data)[0])


def turn(role, content=None, **rest):
    return {"role": role, "content": content, **rest}


def tool_dialogue(*, tools=None, system=None, call=None, result_role="tool"):
    """User, call, result, answer; what varies is where the tools stand and how the call is spelt."""
    head = [system] if system else []
    turns = [*head, turn("user", "天气?"), call, turn(result_role, "晴"), turn("assistant", "晴天。")]
    return {"messages": turns, **({"tools": tools} if tools is not None else {})}


OPENAI_CALL = turn(
    "assistant",
    tool_calls=[
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)},
        }
    ],
)
BARE_CALL = turn("assistant", "", tool_calls=[{"name": "get_weather", "arguments": ARGUMENTS}])
GLM_CALL = turn("assistant", json.dumps(ARGUMENTS), metadata="get_weather")
README_CALL = turn("assistant", json.dumps({"name": "get_weather", "arguments": ARGUMENTS}))
README_CALL_TEXT = turn("assistant", json.dumps({"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}))


@pytest.mark.parametrize("call", [OPENAI_CALL, BARE_CALL, GLM_CALL, README_CALL, README_CALL_TEXT])
@pytest.mark.parametrize("result_role", ["tool", "observation"])
@pytest.mark.parametrize(
    "declared",
    [
        {"tools": [FUNCTION]},
        {"tools": [{"type": "function", "function": FUNCTION}]},
        {"tools": json.dumps([FUNCTION])},
        {"system": turn("system", "", tools=[FUNCTION])},
        {"system": turn("system", tools=json.dumps([{"type": "function", "function": FUNCTION}]))},
        {"tools": [{**FUNCTION, "parameters": json.dumps(SCHEMA)}]},
        {"tools": [FUNCTION], "system": turn("system", tools=[FUNCTION])},
    ],
)
def test_every_spelling_of_tools_and_calls_is_the_same_conversation(call, result_role, declared):
    parsed = parse(tool_dialogue(call=call, result_role=result_role, **declared))
    expected_call = ToolCall("get_weather", ARGUMENTS, "c1") if call is OPENAI_CALL else CALL
    assert parsed == Conversation(
        (
            Message("user", "天气?"),
            Message("assistant", "", (expected_call,)),
            Message("tool", "晴"),
            Message("assistant", "晴天。"),
        ),
        (TOOL,),
    )


def test_json_in_an_answer_is_a_call_only_where_tools_or_a_result_say_so():
    text = json.dumps({"name": "Ann", "arguments": {}})
    alone = parse({"messages": [turn("user", "q"), turn("assistant", text)]})
    with_result = parse({"messages": [turn("user", "q"), turn("assistant", text), turn("observation", "r")]})
    assert alone.messages[1] == Message("assistant", text)
    assert with_result.messages[1] == Message("assistant", "", (ToolCall("Ann", {}),))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f"}',
        '{"name": "f", "arguments": {}, "id": 1}',
        '{"name": "f", "arguments": 3}',
        "{not json",
        '{"a": 1}',
    ],
)
def test_other_json_in_an_answer_stays_text(text):
    parsed = parse({"messages": [turn("user", "q"), turn("assistant", text)], "tools": [FUNCTION]})
    assert parsed.messages[1] == Message("assistant", text)


def test_several_calls_may_be_answered_one_by_one():
    calls = [
        {"function": {"name": "f", "arguments": "{}"}},
        {"function": {"name": "g", "arguments": {"x": None}}},
    ]
    turns = [turn("user", "q"), turn("assistant", tool_calls=calls), turn("tool", "1"), turn("tool", "2")]
    parsed = parse({"messages": turns})
    assert parsed.messages[1].tool_calls == (ToolCall("f", {}), ToolCall("g", {"x": None}))


def test_the_other_fields_of_a_message_are_read():
    parsed = parse(
        {
            "messages": [
                turn("developer", "be brief"),
                turn("user", [{"type": "text", "text": "a"}, {"type": "image", "image": "x.png"}]),
                turn("assistant", "b", reasoning_content="thinking", weight=0),
                turn("user", "c", image="y.png"),
                turn("assistant", "d", train=True, weight=1.0, name="ignored", refusal=None),
            ]
        }
    )
    assert parsed.messages == (
        Message("system", "be brief"),
        Message("user", "a", images=(Image("x.png", offset=1),)),
        Message("assistant", "b", reasoning="thinking", train=False),
        Message("user", "c", images=(Image("y.png"),)),
        Message("assistant", "d"),
    )


def test_the_images_of_a_record_go_where_their_places_are():
    turns = [
        turn("user", "<image>a"),
        turn("assistant", "b"),
        turn("user", "<image><image>"),
        turn("assistant", "d"),
    ]
    parsed = parse({"messages": turns, "images": ["1.jpg", "2.jpg", "3.jpg"]})
    assert [[image.path for image in m.images] for m in parsed.messages] == [
        ["1.jpg"],
        [],
        ["2.jpg", "3.jpg"],
        [],
    ]


@pytest.mark.parametrize("key", ["image", "images"])
def test_several_images_beside_a_text_stand_before_it_or_at_their_marks(key):
    listed = {key: ["1.jpg", {"path": "2.jpg"}]}
    turns = [turn("user", "a", **listed), turn("assistant", "b"), turn("user", "a<image>b<image>", **listed)]
    before, _, marked = parse({"messages": [*turns, turn("assistant", "d")]}).messages[:3]
    assert before == Message("user", "a", images=(Image("1.jpg"), Image("2.jpg")))
    assert marked == Message("user", "ab", images=(Image("1.jpg", offset=1), Image("2.jpg", offset=2)))


def test_the_single_image_of_a_record_may_be_a_list():
    turns = [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "b"}]
    assert parse({"conversations": turns, "image": ["1.jpg"]}).messages[0].images == (Image("1.jpg"),)


def test_an_image_may_come_as_a_data_url():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}
    (image,) = parse({"messages": [turn("user", [part])]}).messages[0].images
    assert settled(image, Path(), Access(())) == Image(data=b"\0\1\2")


def test_messages_given_as_a_json_string_are_read():
    assert parse({"messages": json.dumps([turn("user", "q")])}).messages == (Message("user", "q"),)


def test_a_tool_sample_and_a_plain_sample_in_one_file_stay_what_they_are():
    """Upstream defect 4: Arrow fills `tools: None` into the plain one, and the template crashes on it."""
    plain = {
        "messages": [turn("user", "q", tools=None, tool_calls=None, metadata=None), turn("assistant", "a")],
        "tools": None,
    }
    assert parse(plain) == Conversation((Message("user", "q"), Message("assistant", "a")))
    filled = tool_dialogue(
        tools=[
            {**FUNCTION, "parameters": {**SCHEMA, "properties": {"city": {"type": "string", "enum": None}}}}
        ],
        call=BARE_CALL,
    )
    parsed = parse(without_nulls(filled))
    assert "null" not in json.dumps([tool.parameters for tool in parsed.tools])
    assert parsed.tools == (TOOL,)


@pytest.mark.parametrize("role", ["Human", "bot", "", 3, None])
def test_an_unknown_role_is_refused(role):
    """Upstream defect 11: unknown roles were trained on."""
    with pytest.raises(DataError, match=r"^train.jsonl:17: E204 messages: message 2 has "):
        parse({"messages": [turn("user", "q"), turn(role, "a")]})


USER = turn("user", "q")
WRONG_MESSAGES = {
    "the list of messages is empty": {"messages": []},
    "expected an array of messages": {"messages": {"role": "user"}},
    "the list of messages: not valid JSON": {"messages": "[{"},
    'the record has no "messages"': {"messages": None},
    "message 2 is a string": {"messages": [USER, "a"]},
    "message 1 has no role; this looks like ShareGPT": {"messages": [{"from": "human", "value": "q"}]},
    "message 1 (user) is empty": {"messages": [turn("user", " \n")]},
    "message 2 (assistant) is empty": {"messages": [USER, turn("assistant", None)]},
    "no message but an empty system message": {"messages": [turn("system", tools=[FUNCTION])]},
    "content is a number": {"messages": [turn("user", 4)]},
    "content is an object; expected text; write a tool's result as a JSON string": {
        "messages": [USER, OPENAI_CALL, turn("tool", {"t": 1})]
    },
    "a content part of type 'audio'": {"messages": [turn("user", [{"type": "audio"}])]},
    "the text of a content part is null": {"messages": [turn("user", [{"type": "text"}])]},
    "message 2 is a tool result without a call": {"messages": [USER, turn("tool", "r")]},
    "message 4 is a tool result without a call": {
        "messages": [USER, BARE_CALL, turn("tool", "1"), turn("tool", "2")]
    },
    "message 2 (metadata 'f'): arguments: not valid JSON": {
        "messages": [USER, turn("assistant", "x", metadata="f")]
    },
    "message 2 (metadata 'f'): arguments are an array": {
        "messages": [USER, turn("assistant", "[]", metadata="f")]
    },
    "the call of 'f': arguments: not valid JSON": {
        "messages": [USER, turn("assistant", tool_calls=[{"name": "f", "arguments": "{"}])]
    },
    "message 2: a tool call has no function name": {
        "messages": [USER, turn("assistant", tool_calls=[{"function": {}}])]
    },
    "message 2: a tool call is a string": {"messages": [USER, turn("assistant", tool_calls=["f"])]},
    "tool_calls is an object": {"messages": [USER, turn("assistant", tool_calls={"name": "f"})]},
    "message 1 (user) has tool_calls": {"messages": [turn("user", "q", tool_calls=[{"name": "f"}])]},
    "message 2 has function_call and tool_calls; write its calls once": {
        "messages": [USER, turn("assistant", function_call={"name": "f"}, tool_calls=[{"name": "f"}])]
    },
    "tools is an object; expected an array": {"messages": [USER], "tools": {"name": "f"}},
    "tools: not valid JSON": {"messages": [USER], "tools": "[{]"},
    "tool 2 has no name": {"messages": [USER], "tools": [FUNCTION, {"type": "function", "function": {}}]},
    "tool 1: parameters are an array": {"messages": [USER], "tools": [{"name": "f", "parameters": [1]}]},
    "message 1 has tools; they belong on the system message": {
        "messages": [turn("user", "q", tools=[FUNCTION])]
    },
    "tools are declared twice, and differently": {
        "messages": [turn("system", tools=[{"name": "g"}]), USER],
        "tools": [FUNCTION],
    },
    "weight is -0.5; expected a number from 0": {"messages": [USER, turn("assistant", "a", weight=-0.5)]},
    "weight is '1'; expected a number from 0": {"messages": [USER, turn("assistant", "a", weight="1")]},
    "train is 'no'; expected 0 or 1": {"messages": [USER, turn("assistant", "a", train="no")]},
    "train and weight contradict": {"messages": [USER, turn("assistant", "a", train=True, weight=0)]},
    "message 1 (user) asks to be learnt": {"messages": [turn("user", "q", train=True)]},
    "message 1 (user) has reasoning_content": {"messages": [turn("user", "q", reasoning_content="x")]},
    "2 images, but 1 place marked <image>": {"messages": [turn("user", "<image>")], "images": ["a", "b"]},
}


@pytest.mark.parametrize(("reason", "data"), WRONG_MESSAGES.items(), ids=WRONG_MESSAGES)
def test_what_is_no_conversation_is_refused_with_its_place_and_reason(reason, data):
    with pytest.raises(DataError) as refusal:
        parse(data)
    assert str(refusal.value).startswith("train.jsonl:17: ")
    assert reason in str(refusal.value)


def test_sharegpt_is_read_with_its_system_tools_and_calls():
    parsed = parse(
        {
            "system": "你是助手",
            "conversations": [
                {"from": "human", "value": "天气?"},
                {"from": "function_call", "value": json.dumps({"name": "get_weather", "arguments": ARGUMENTS})},
                {"from": "observation", "value": "晴"},
                {"from": "gpt", "value": "晴天。", "weight": 0},
            ],
            "tools": json.dumps([FUNCTION]),
        }
    )
    assert parsed == Conversation(
        (
            Message("system", "你是助手"),
            Message("user", "天气?"),
            Message("assistant", "", (CALL,)),
            Message("tool", "晴"),
            Message("assistant", "晴天。", train=False),
        ),
        (TOOL,),
    )


def test_sharegpt_may_hold_its_system_as_a_turn_and_several_calls_in_one():
    calls = [{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps(calls)},
    ]
    parsed = parse({"conversations": turns, "system": "", "tools": ""})
    assert parsed.messages[2].tool_calls == (ToolCall("f", {}), ToolCall("g", {}))
    assert parsed.tools == ()


@pytest.mark.parametrize(
    ("reason", "turns"),
    [
        ("message 1 is from 'bot'", [{"from": "bot", "value": "x"}]),
        ("use 'function_call' for calls", [{"from": "function", "value": "x"}]),
        ("message 1 is no ShareGPT turn", [{"from": "human"}]),
        ("(function_call): not valid JSON", [{"from": "function_call", "value": "f(x)"}]),
        ("(function_call) holds no name", [{"from": "function_call", "value": "3"}]),
        ("the list of messages: not valid JSON", "hello"),
        ("the messages are an object", {"from": "human"}),
        ("message 1 (user) is empty", [{"from": "human", "value": ""}]),
    ],
)
def test_wrong_sharegpt_is_refused(reason, turns):
    with pytest.raises(DataError) as refusal:
        parse({"conversations": turns}, "sharegpt")
    assert reason in str(refusal.value)


def test_alpaca_is_read_with_its_system_and_history():
    parsed = parse(
        {"system": "s", "history": [["q1", "a1"]], "instruction": "翻译", "input": "hello", "output": "你好"}
    )
    roles = [(message.role, message.content) for message in parsed.messages]
    assert roles == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "翻译\nhello"),
        ("assistant", "你好"),
    ]


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("output is empty", {"instruction": "q", "input": "", "output": ""}),
        ("output is a number", {"instruction": "q", "output": 3}),
        ('no "output"', {"instruction": "q", "output": None}),
        ("history is not an array of", {"instruction": "q", "output": "a", "history": ["q1"]}),
    ],
)
def test_wrong_alpaca_is_refused(reason, data):
    with pytest.raises(DataError) as refusal:
        parse(data, "alpaca")
    assert reason in str(refusal.value)


def test_of_prompt_and_completion_only_the_completion_is_learnt():
    prompt = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    parsed = parse({"prompt": prompt, "completion": [turn("assistant", "d")]})
    assert [(m.content, m.train) for m in parsed.messages] == [
        ("a", True),
        ("b", False),
        ("c", True),
        ("d", True),
    ]
    assert parse({"prompt": "a", "completion": "d"}).messages == (
        Message("user", "a"),
        Message("assistant", "d"),
    )


def test_text_is_a_document():
    assert parse({"text": "文"}) == PlainText("文")
    with pytest.raises(DataError, match="text is empty"):
        parse({"text": " "})


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"messages": []}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "sharegpt"),
        ({"conversations": [{"role": "user", "content": "q"}]}, "messages"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
        ({"text": "x", "id": 3}, "text"),
    ],
)
def test_the_format_is_told_by_the_fields_and_why(data, found):
    name, why = detect_format(data)
    assert name == found
    assert why.startswith("records have ")


def test_a_record_of_no_known_format_is_told_what_it_has_and_what_is_expected():
    with pytest.raises(WrongRecordError, match=r'has "title", "body"; expected messages \| conversations'):
        detect_format({"title": "q", "body": "a"})


def test_glm_conversations_under_their_old_name_are_messages():
    assert parse({"conversations": [turn("user", "q")]}).messages == (Message("user", "q"),)

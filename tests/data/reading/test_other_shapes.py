"""Data written for other tools: its marks, its calls and its keys mean here what they mean there."""

import json

import pytest

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.config.schema import DataConfig
from finetune.data.reading.formats import PlainText
from finetune.data.reading.intake import Intake


def read(tmp_path, *rows, name="train.jsonl", **config):
    """What a file holds, as `data_config` wants it read."""
    path = tmp_path / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    intake = Intake.under(DataConfig(train_file=name, **config), tmp_path, path)
    conversations = [conversation for _, conversation in intake.conversations()]
    assert [str(problem) for problem in intake.problems] == []
    return conversations, intake


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


MARKS = [
    ({"train": False}, False),
    ({"train": 0}, False),
    ({"training": False}, False),
    ({"trainable": False}, False),
    ({"learn": False}, False),
    ({"loss": False}, False),
    ({"loss": 0}, False),
    ({"loss_mask": 0}, False),
    ({"loss_scale": 0}, False),
    ({"loss_weight": 0.0}, False),
    ({"weight": 0}, False),
    ({"mask": True}, False),
    ({"masked": True}, False),
    ({"loss": False, "weight": 0}, False),
    ({"loss": None}, True),
    ({"loss": True}, True),
    ({"loss_scale": 1.0}, True),
    ({"masked": False}, True),
    ({}, True),
]


@pytest.mark.parametrize(("mark", "learnt"), MARKS)
def test_a_mark_of_any_tool_says_whether_a_turn_is_learnt(tmp_path, mark, learnt):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **mark}]
    ((conversation,), intake) = read(tmp_path, {"messages": turns})
    assert conversation.messages[1].train is learnt
    assert list(intake.unread.findings()) == []


def test_the_loss_of_a_users_turn_says_nothing(tmp_path):
    turns = [{"from": "human", "value": "q", "loss": True}, {"from": "gpt", "value": "a", "loss": False}]
    ((conversation,), _) = read(tmp_path, {"conversations": turns})
    assert [message.train for message in conversation.messages] == [True, False]


QUESTIONS = [
    ({"query": "Hi", "response": "Hello", "history": [["a", "b"]], "system": "s"}, "(ms-swift)"),
    ({"instruction": "Hi", "context": "c", "response": "Hello"}, "(Dolly)"),
    ({"content": "Hi", "summary": "Hello"}, "(AdvertiseGen)"),
    ({"input": "Hi", "target": "Hello"}, "(Firefly)"),
    ({"conversation": [{"human": "Hi", "assistant": "Hello"}]}, "(Firefly)"),
    ({"conversation": [{"system": "s", "input": "Hi", "output": "Hello"}]}, "(XTuner)"),
    ({"question": "Hi", "answer": "Hello"}, '"question" and "answer"'),
    ({"prompt": "Hi", "response": "Hello"}, '"prompt" and "response"'),
    ({"input": "Hi", "output": "Hello"}, '"input" and "output"'),
]


@pytest.mark.parametrize(("row", "why"), QUESTIONS, ids=[" ".join(row) for row, _ in QUESTIONS])
def test_a_question_and_its_answer_are_known_by_the_names_that_data_sets_give_them(tmp_path, row, why):
    ((conversation,), intake) = read(tmp_path, row)
    context = "\nc" if "context" in row else ""
    system = [("system", "s")] if "system" in str(row) else []
    history = [("user", "a"), ("assistant", "b")] if "history" in row else []
    assert said(conversation) == [*system, *history, ("user", f"Hi{context}"), ("assistant", "Hello")]
    assert why in intake.format()[1] and list(intake.unread.findings()) == []


COLUMNS = [
    ({"frage": "Hi", "antwort": "Hello"}, {"frage": "user", "antwort": "assistant"}),
    (
        {"q": "Hi", "more": "", "a": "Hello", "rules": ""},
        {"q": "user", "more": "context", "a": "assistant", "rules": "system"},
    ),
    ({"p": "Hi", "c": "Hello"}, {"p": "prompt", "c": "completion"}),
    (
        {"dialog": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"dialog": "messages"},
    ),
    ({"d": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, {"d": "conversations"}),
    (
        {"d": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"d": "conversations"},
    ),
]


@pytest.mark.parametrize(("row", "columns"), COLUMNS, ids=[" ".join(row) for row, _ in COLUMNS])
def test_columns_say_what_stands_under_a_datasets_own_keys(tmp_path, row, columns):
    ((conversation,), intake) = read(tmp_path, row, columns=columns)
    assert said(conversation) == [("user", "Hi"), ("assistant", "Hello")]
    assert intake.format()[1] == "data_config.columns says so (line 1)"
    assert list(intake.unread.findings()) == []


def test_columns_name_a_document_and_leave_other_keys_unread(tmp_path):
    (documents, intake) = read(tmp_path, {"body": "x", "text": "y"}, columns={"body": "text"})
    assert documents == [PlainText("x")]
    (finding,) = intake.unread.findings()
    assert "'text'" in finding.reason


def test_a_missing_column_is_told_by_its_own_name(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"q": "Hi", "a": "Hello"}\n{"q": "Hi", "b": "Hello"}\n', encoding="utf-8")
    config = DataConfig(train_file="train.jsonl", columns={"q": "user", "a": "assistant"})
    intake = Intake.under(config, tmp_path, path)
    assert len(list(intake.conversations())) == 1
    assert str(intake.problems[0]) == f'{path}:2:1: E202 the record has no "a"; it has "q", "b"'


CALL = ToolCall("w", {"town": "Oslo"})
TOOLS = [{"name": "w", "description": "d", "parameters": {"type": "object"}}]
OBJECT = '{"name": "w", "arguments": {"town": "Oslo"}}'
RAW = [
    ('w\n{"town": "Oslo"}', "", 1),
    ('w\n{\n"town": "Oslo"\n}\n', "", 1),
    ('w({"town": "Oslo"})', "", 1),
    (OBJECT, "", 1),
    (f"<tool_call>\n{OBJECT}\n</tool_call>", "", 1),
    (f"I look.\n<tool_call>{OBJECT}</tool_call>\n<tool_call>{OBJECT}</tool_call>", "I look.", 2),
]


@pytest.mark.parametrize(("content", "before", "calls"), RAW)
def test_a_call_of_a_declared_tool_is_read_in_the_spelling_of_any_model(tmp_path, content, before, calls):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    ((conversation,), _) = read(tmp_path, {"tools": TOOLS, "messages": turns})
    assert conversation.messages[1] == Message("assistant", before, (CALL,) * calls)


NO_CALLS = [
    'v\n{"town": "Oslo"}',
    "w(town=Oslo)",
    'Call w({"town": "Oslo"}) now.',
    'w\n{"town": ',
    f"<tool_call>{OBJECT}</tool_call> Done.",
    "<tool_call>w</tool_call>",
    'w\n["Oslo"]',
]


@pytest.mark.parametrize("content", NO_CALLS)
def test_what_is_not_wholly_a_call_stays_text(tmp_path, content):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    ((conversation,), _) = read(tmp_path, {"tools": TOOLS, "messages": turns})
    assert conversation.messages[1] == Message("assistant", content)


def test_openais_first_way_to_write_calls_is_one_tool_call(tmp_path):
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "function_call": {"name": "w", "arguments": '{"town": "Oslo"}'}},
        {"role": "function", "name": "w", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
    ]
    ((conversation,), intake) = read(tmp_path, {"messages": turns, "functions": TOOLS})
    _, call, result, answer = conversation.messages
    assert (call.tool_calls, result, answer.content) == ((CALL,), Message("tool", "rain"), "Rain.")
    assert conversation.tools == (Tool("w", "d", {"type": "object"}),)
    assert list(intake.unread.findings()) == []


def test_chatglm3s_turn_of_a_tool_is_a_call_and_its_result(tmp_path):
    tool = {"role": "tool", "name": "w", "parameters": {"town": "Oslo"}, "observation": {"sky": "grey"}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "I look."},
        tool,
        tool,
        {"role": "assistant", "content": "Grey."},
    ]
    ((conversation,), intake) = read(tmp_path, {"tools": TOOLS, "conversations": turns})
    assert conversation.messages[1:] == (
        Message("assistant", "I look.", (CALL,)),
        Message("tool", '{"sky": "grey"}'),
        Message("assistant", "", (CALL,)),
        Message("tool", '{"sky": "grey"}'),
        Message("assistant", "Grey."),
    )
    assert list(intake.unread.findings()) == []


def test_a_system_text_beside_messages_is_the_first_of_them(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    ((conversation,), _) = read(tmp_path, {"system": "s", "messages": turns})
    assert said(conversation)[0] == ("system", "s")


def test_gpt_oss_thoughts_are_read(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "thinking": "t"}]
    ((conversation,), _) = read(tmp_path, {"messages": turns})
    assert conversation.messages[1].reasoning == "t"


def test_a_key_that_nothing_reads_is_told_once_with_its_number_and_first_place(tmp_path):
    plain = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    scored = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q", "cache": 1}], "name": "Ann"},
            {"role": "assistant", "content": "a", "score": 3},
        ],
        "topic": "x",
        "id": 7,
        "note": None,
    }
    (_, intake) = read(tmp_path, plain, scored, scored)
    assert [f"{one.line}: {one.code} {one.reason}" for one in intake.unread.findings()] == [
        "2: W530 a record has the key 'topic', which nothing reads; 2 have it",
        "2: W530 a message has the key 'name', which nothing reads; 2 have it",
        "2: W530 a part of a content has the key 'cache', which nothing reads; 2 have it",
        "2: W530 a message has the key 'score', which nothing reads; 2 have it",
    ]


def test_the_class_of_a_text_is_no_preference(tmp_path):
    (documents, intake) = read(tmp_path, {"text": "x", "label": True})
    assert documents == [PlainText("x")]
    assert [one.code for one in intake.unread.findings()] == ["W530"]


def test_json_in_a_txt_file_is_a_document_only_where_format_says_so(tmp_path):
    row = {"prompt": "q", "completion": "a"}
    (documents, _) = read(tmp_path, row, name="train.txt", format="text")
    assert documents == [PlainText(f"{json.dumps(row)}\n")]
    (tmp_path / "prose.txt").write_text("[1] A footnote.\n", encoding="utf-8")
    intake = Intake(tmp_path / "prose.txt")
    assert len(list(intake.conversations())) == 1

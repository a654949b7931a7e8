"""The forms of tool calls, read one by one."""

from functools import partial

import pytest

from finetune.chat.calls import read_arg_keys, read_glm4, read_json, read_named_json, read_parameters
from finetune.chat.messages import ToolCall

hermes = partial(read_json, opening="<tool_call>")
mistral = partial(read_json, opening="[TOOL_CALLS]")
bare = partial(read_json, opening="")
named = partial(read_named_json, opening="[TOOL_CALLS]", between=r"(?:\[ARGS\])?")


@pytest.mark.parametrize(
    ("reader", "text", "before", "calls"),
    [
        (read_glm4, 'f\n{"a": 1}', "", [ToolCall("f", {"a": 1})]),
        (read_glm4, '\nwait<|assistant|>f\n{"a": {"b": []}}', "\nwait", [ToolCall("f", {"a": {"b": []}})]),
        (
            read_arg_keys,
            "ok\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x\ny</arg_value>\n</tool_call>\n<tool_call>g\n</tool_call>",
            "ok",
            [ToolCall("f", {"a": "x\ny"}), ToolCall("g", {})],
        ),
        (
            read_arg_keys,
            "<tool_call>f<arg_key>n</arg_key><arg_value>[1, 2]</arg_value><arg_key>s</arg_key>"
            '<arg_value>"q"</arg_value></tool_call>',
            "",
            [ToolCall("f", {"n": [1, 2], "s": '"q"'})],
        ),
        (
            read_parameters,
            "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n"
            "</tool_call>",
            "",
            [ToolCall("f", {"a": "x", "n": 3})],
        ),
        (
            read_parameters,
            "<tool_call>\n<function=f>\n<parameter=b>\nTrue\n</parameter>\n<parameter=z>\nNone\n</parameter>\n"
            "<parameter=s>\ntrue enough\n</parameter>\n</function>\n</tool_call>",
            "",
            [ToolCall("f", {"b": True, "z": None, "s": "true enough"})],
        ),
        (
            hermes,
            'so\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n'
            '{"name": "g", "arguments": {"a": "</tool_call>"}}\n</tool_call>',
            "so",
            [ToolCall("f", {}), ToolCall("g", {"a": "</tool_call>"})],
        ),
        (
            mistral,
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abc"}, '
            '{"name": "g", "arguments": "{}"}]',
            "",
            [ToolCall("f", {"a": 1}, "abc"), ToolCall("g", {})],
        ),
        (named, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{}', "", [ToolCall("f", {"a": 1}), ToolCall("g", {})]),
        (bare, '{"name": "f", "parameters": {"a": 1}}', "", [ToolCall("f", {"a": 1})]),
    ],
)  # fmt: skip
def test_a_call_is_read_with_the_text_before_it(reader, text, before, calls):
    assert reader(text) == (before, tuple(calls))


@pytest.mark.parametrize("reader", [read_glm4, read_arg_keys, read_parameters, hermes, mistral, named, bare])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "Hello.",
        "f",
        "f\n",
        "f\n{",
        'f\n{"a": 1} and more',
        "two words\n{}",
        "f\n[]",
        "f\nNaN",
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>{",
        '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f"}</tool_call>',
        "[TOOL_CALLS]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS] [1]",
        '{"name": "f", "arguments": [1]}',
        '{"answer": 42}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_what_is_no_call_is_not_read_as_one(reader, text):
    assert reader(text) is None

"""Spellings of tool calls, each learnt from a template of its own and read back."""

import json
import random

import pytest

from finetune.chat.call_format import learn_calls
from finetune.chat.calls import CallReader, JsonCalls, KeyedCalls, NamedCalls
from finetune.chat.jinja import JinjaTemplate
from finetune.chat.messages import Conversation, Message, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError

TWO = (ToolCall("look_up", {"city": "Paris", "days": 2}, "abcdef001"), ToolCall("stop", {}, "abcdef002"))

SPELLINGS: dict[str, tuple[type, str, str]] = {
    "JSON in tags": (
        JsonCalls,
        "{% for c in calls %}{{ '\n' }}<call>\n"
        '{{ {"name": c.name, "arguments": c.arguments} | tojson }}\n</call>{% endfor %}',
        '\n<call>\n{"name": "look_up", "arguments": {"city": "Paris", "days": 2}}\n</call>\n'
        '<call>\n{"name": "stop", "arguments": {}}\n</call>',
    ),
    "a JSON list with ids": (
        JsonCalls,
        "[CALLS]{{ calls | tojson }}",
        '[CALLS][{"name": "look_up", "arguments": {"city": "Paris", "days": 2}, "id": "abcdef001"}, '
        '{"name": "stop", "arguments": {}, "id": "abcdef002"}]',
    ),
    "a function inside": (
        JsonCalls,
        "<|calls|>[{% for c in calls %}"
        '{{ {"type": "function", "function": {"name": c.name, "parameters": c.arguments}} | tojson }}'
        "{% if not loop.last %}, {% endif %}{% endfor %}]",
        '<|calls|>[{"type": "function", "function": {"name": "look_up", "parameters": {"city": "Paris", '
        '"days": 2}}}, {"type": "function", "function": {"name": "stop", "parameters": {}}}]',
    ),
    "the name as a key": (
        JsonCalls,
        "<|calls|>[{% for c in calls %}{{ {c.name: c.arguments} | tojson }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}]<|end|>",
        '<|calls|>[{"look_up": {"city": "Paris", "days": 2}}, {"stop": {}}]<|end|>',
    ),
    "arguments as a JSON text": (
        JsonCalls,
        '{% for c in calls %}<call>{{ {"name": c.name, "arguments": c.arguments | tojson} | tojson }}</call>'
        "{% endfor %}",
        '<call>{"name": "look_up", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 2}"}</call>'
        '<call>{"name": "stop", "arguments": "{}"}</call>',
    ),
    "JSON with nothing between": (
        JsonCalls,
        '{% for c in calls %}{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}{% endfor %}',
        '{"name": "look_up", "parameters": {"city": "Paris", "days": 2}}{"name": "stop", "parameters": {}}',
    ),
    "every value in quotation marks": (
        KeyedCalls,
        "[{% for c in calls %}{{ c.name }}({% for k in c.arguments %}"
        "{{ k }}=\"{{ '%s' | format(c.arguments[k]) }}\""
        "{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]",
        '[look_up(city="Paris", days="2"), stop()]',
    ),
    "a name and JSON": (
        NamedCalls,
        "{% for c in calls %}<|call|>{{ c.name }}<|id|>{{ c.id }}<|args|>"
        "{{ c.arguments | tojson }}{% endfor %}",
        '<|call|>look_up<|id|>abcdef001<|args|>{"city": "Paris", "days": 2}'
        "<|call|>stop<|id|>abcdef002<|args|>{}",
    ),
    "counted calls": (
        NamedCalls,
        "<|calls|>{% for c in calls %}<|call|>functions.{{ c.name }}:{{ loop.index0 }}<|args|>"
        "{{ c.arguments | tojson }}<|call_end|>{% endfor %}<|calls_end|>",
        '<|calls|><|call|>functions.look_up:0<|args|>{"city": "Paris", "days": 2}<|call_end|>'
        "<|call|>functions.stop:1<|args|>{}<|call_end|><|calls_end|>",
    ),
    "Python with JSON values": (
        KeyedCalls,
        "[{% for c in calls %}{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}={{ v | tojson }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]",
        '[look_up(city="Paris", days=2), stop()]',
    ),
    "Python with text in plain quotation marks": (
        KeyedCalls,
        "<|calls|>[{% for c in calls %}{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}="
        '{% if v is string %}"{{ v }}"{% else %}{{ v }}{% endif %}'
        "{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}{% endfor %}]",
        '<|calls|>[look_up(city="Paris", days=2), stop()]',
    ),
    "tags with bare text": (
        KeyedCalls,
        "{% for c in calls %}{{ '\n' }}<call>{{ c.name }}\n"
        "{% for k, v in c.arguments.items() %}<key>{{ k }}</key>\n"
        "<value>{{ v if v is string else v | tojson }}</value>\n{% endfor %}</call>{% endfor %}",
        "\n<call>look_up\n<key>city</key>\n<value>Paris</value>\n<key>days</key>\n<value>2</value>\n</call>\n"
        "<call>stop\n</call>",
    ),
    "tags with lines of text and Python's words": (
        KeyedCalls,
        "{% for c in calls %}<function={{ c.name }}>\n"
        "{% for k, v in c.arguments.items() %}<parameter={{ k }}>\n"
        "{{ v | tojson if v is mapping or (v is iterable and v is not string) else v }}\n</parameter>\n"
        "{% endfor %}</function>\n{% endfor %}",
        "<function=look_up>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n<function=stop>\n</function>\n",
    ),
    "tags that tell text from values": (
        KeyedCalls,
        '<calls>{% for c in calls %}<invoke name="{{ c.name }}">{% for k, v in c.arguments.items() %}'
        '<arg name="{{ k }}" string="{{ "true" if v is string else "false" }}">'
        "{{ v if v is string else v | tojson }}</arg>{% endfor %}</invoke>{% endfor %}</calls>",
        '<calls><invoke name="look_up"><arg name="city" string="true">Paris</arg>'
        '<arg name="days" string="false">2</arg></invoke><invoke name="stop"></invoke></calls>',
    ),
    "character data where a text needs it": (
        KeyedCalls,
        '{% for c in calls %}<f n="{{ c.name }}">{% for k, v in c.arguments.items() %}<p n="{{ k }}">'
        "{% if v is string and ('<' in v or '\"' in v) %}<![CDATA[{{ v }}]]>"
        "{% elif v is string %}{{ v }}{% else %}{{ v | tojson }}{% endif %}</p>{% endfor %}</f>{% endfor %}",
        '<f n="look_up"><p n="city">Paris</p><p n="days">2</p></f><f n="stop"></f>',
    ),
    "quotes of its own": (
        KeyedCalls,
        "{% macro show(v) %}{% if v is string %}<q>{{ v }}</q>{% elif v is mapping %}{{ '{' }}"
        "{% for k, x in v.items() %}{{ k }}:{{ show(x) }}{% if not loop.last %},{% endif %}{% endfor %}"
        "{{ '}' }}"
        "{% elif v is iterable %}[{% for x in v %}{{ show(x) }}{% if not loop.last %},{% endif %}{% endfor %}]"
        "{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
        "{% for c in calls %}<|call>call:{{ c.name }}{{ show(c.arguments) }}<call|>{% endfor %}",
        "<|call>call:look_up{city:<q>Paris</q>,days:2}<call|><|call>call:stop{}<call|>",
    ),
}

WRITTEN = {name: written for name, (_, _, written) in SPELLINGS.items()}


def writer(source: str):
    """`write` as in call_probes.py, of a template that has the calls of its only message as `calls`."""
    template = JinjaTemplate("{% set calls = messages[0].calls %}" + source, name="t", variables={})

    def write(message: Message) -> str | None:
        calls = [{"name": c.name, "arguments": dict(c.arguments), "id": c.id} for c in message.tool_calls]
        try:
            return template.render([{"content": message.content, "calls": calls}], None, False)
        except TemplateError:
            return None

    return write


CONTENT = "{{ messages[0].content }}"
READERS: dict[str, CallReader | None] = {
    name: learn_calls(writer(CONTENT + source)) for name, (_, source, _) in SPELLINGS.items()
}


def read(name: str, text: str):
    reader = READERS[name]
    assert reader is not None
    return reader(text)


def plain(calls) -> list:
    return [(call.name, dict(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_calls_are_read_as_they_are_written_alone_and_behind_text(name: str) -> None:
    form, source, written = SPELLINGS[name]
    assert writer(CONTENT + source)(Message("assistant", "", TWO)) == written
    reader = READERS[name]
    assert reader is not None and isinstance(reader.form, form)
    for content in ("", "I will look."):
        text, calls = read(name, content + written) or ("", ())
        assert (text, plain(calls)) == (content, plain(TWO))


def test_ids_are_read_where_they_are_written() -> None:
    for name in ("a JSON list with ids", "a name and JSON"):
        _, calls = read(name, WRITTEN[name]) or ("", ())
        assert [call.id for call in calls] == ["abcdef001", "abcdef002"]


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize(
    "value",
    ["", "two\nlines", 'a "b" (c=1), it\'s', "\\n", "né 你好 🍎", "<b>x</b>", 0, -2.5, True, None, [],
     [1, ["x"]], {"a": {"b": "c d"}}],
)  # fmt: skip
def test_every_kind_of_value_comes_back_as_what_it_was(name: str, value: object) -> None:
    calls = (ToolCall("f", {"x": value, "y": "end"}), ToolCall("g", {"x": value}))
    written = writer(CONTENT + SPELLINGS[name][1])(Message("assistant", "", calls))
    _, found = read(name, written) or ("", ())
    assert json.dumps(plain(found)) == json.dumps(plain(calls))


@pytest.mark.parametrize("name", SPELLINGS)
def test_calls_are_read_all_or_not_at_all(name: str) -> None:
    written = WRITTEN[name]
    assert read(name, written + "Done.") is None
    for length in range(len(written.rstrip()) - 1):
        found = read(name, written[:length])
        assert found is None or len(found[1]) < 2
        if found:  # the first call is whole, and nothing of another one follows
            assert plain(found[1]) == plain(TWO[:1])
            assert "stop" not in written[:length]


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_is_no_call_is_text(name: str) -> None:
    texts = ["", "Hello.", "look_up", "look_up {}", '{"answer": 42}', "[1, 2]", "f(x) = 3", "<b>"]
    for text in [*texts, "[" * 50_000, '{"a":' * 50_000]:
        assert read(name, text) is None, text[:20]


@pytest.mark.parametrize("name", SPELLINGS)
def test_damaged_calls_are_refused_without_an_exception(name: str) -> None:
    luck = random.Random(name)
    for _ in range(150):
        text = WRITTEN[name]
        for _ in range(luck.randint(1, 3)):
            at, until = sorted(luck.randrange(len(text) + 1) for _ in range(2))
            noise = luck.choice([*"\"'{}[](=,\\\n<", "", text[at:until] * 2])
            text = text[:at] + noise + text[luck.choice([at, until]) :]
        found = read(name, text)
        assert found is None or all(isinstance(call, ToolCall) for call in found[1])
    deep = read(name, WRITTEN[name].replace("2", "[" * 50_000))
    assert deep is None or deep[1][0].arguments["days"] == "[" * 50_000  # a text that stands bare


UNREADABLE = {
    "names of arguments are left out": (
        "{% for c in calls %}{{ c.name }}({{ c.arguments.values() | join }}){% endfor %}"
    ),
    "values are changed": (
        "{% for c in calls %}<call>{{ c.name }}{{ c.arguments | tojson | upper }}</call>{% endfor %}"
    ),
    "names stand apart from arguments": (
        "{% for c in calls %}{{ c.name }}{% endfor %}{% for c in calls %}{{ c.arguments | tojson }}{% endfor %}"
    ),
    "objects are spelt in tags of their own": (
        "{% for c in calls %}<call>{{ c.name }}{% for k, v in c.arguments.items() %}<a n={{ k }}>"
        "{% if v is mapping %}{% for j, w in v.items() %}<i n={{ j }}>{{ w }}</i>{% endfor %}{% else %}{{ v }}"
        "{% endif %}</a>{% endfor %}</call>{% endfor %}"
    ),
    "calls are not printed": "nothing",
}


@pytest.mark.parametrize(("why", "source"), UNREADABLE.items())
def test_a_spelling_that_cannot_be_read_exactly_has_no_reader(why: str, source: str) -> None:
    assert learn_calls(writer(CONTENT + source)) is None, why


def test_a_template_that_writes_one_call_a_turn_has_a_reader_of_one_call() -> None:
    one = '{"name": {{ calls[0].name | tojson }}, "parameters": {{ calls[0].arguments | tojson }}}'
    reader = learn_calls(writer("{% if calls | length > 1 %}{{ raise_exception('one') }}{% endif %}" + one))
    assert reader is not None
    call = '{"name": "f", "parameters": {"a": 1}}'
    assert reader(call) == ("", (ToolCall("f", {"a": 1}),))
    assert reader(f"{call}; {call}") is None
    assert reader(f"{call}\n{call}") is None
    assert reader(f"Look: {call}") is None


def test_arguments_that_a_template_prints_as_they_are_are_given_as_json(family) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}"
        "{% for c in m.tool_calls or [] %}"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments }}}'
        "{% if not loop.last %},{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = ChatTemplate(family("chatml").tokenizer, source, name="odd.jinja")
    (rendered,) = template.render(Conversation((Message("user", "q"), Message("assistant", "", TWO))))
    written = rendered.input_ids[slice(*rendered.turns[0])]
    assert template.visible(written) == (
        '{"name": "look_up", "arguments": {"city": "Paris", "days": 2}},'
        '{"name": "stop", "arguments": {}}<|im_end|>'
    )
    assert plain(template.parse(written).tool_calls) == plain(TWO)


def test_text_that_looks_like_the_start_of_a_call_does_not_hide_the_call_behind_it(family) -> None:
    template = family("glm-z1")
    said = Message("assistant", "```json\n{{ x }}", (ToolCall("look_up", {"a": 1}),))
    (rendered,) = template.render(Conversation((Message("user", "q"), said, Message("tool", "r"))))
    ((start, end),) = rendered.turns
    read = template.parse(rendered.input_ids[start:end])
    assert (read.content, read.tool_calls) == (said.content, said.tool_calls)


def test_text_that_has_a_frame_of_its_own_is_taken_out_of_it() -> None:
    reader = learn_calls(
        writer(
            "{% if messages[0].content %}<|channel|>thinking<|message|>{{ messages[0].content }}<|end|>"
            "<|start|>assistant{% endif %} to={{ calls[0].name }}<|channel|>calls<|message|>"
            "{{ calls[0].arguments | tojson }}"
        )
    )
    assert reader is not None
    call = ' to=f<|channel|>calls<|message|>{"a": 1}'
    assert reader(call) == ("", (ToolCall("f", {"a": 1}),))
    framed = f"<|channel|>thinking<|message|>I look.<|end|><|start|>assistant{call}"
    assert reader(framed) == ("I look.", (ToolCall("f", {"a": 1}),))


def test_a_template_whose_calls_cannot_be_read_says_so_once_and_parses_text(family, capsys) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"
        "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = ChatTemplate(family("chatml").tokenizer, source, name="odd.jinja")
    assert not template.reads_calls
    call = Message("assistant", "", (ToolCall("f", {"x": "y"}),))
    for _ in range(2):
        (rendered,) = template.render(Conversation((Message("user", "q"), call)))
        assert template.parse(rendered.input_ids[slice(*rendered.turns[0])]).content == "f<x>y"
    assert capsys.readouterr().err.count("cannot be read back") == 1

"""What templates do between a generation prompt and a turn, one small template of ours for each way."""

import pytest

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError

ASKED = Message("user", "q")
ANSWERED = Message("assistant", "a")
THOUGHT = Message("assistant", "a", reasoning="t")
TOOL = Tool("f", "", {"type": "object"})
ONE = Message("assistant", tool_calls=(ToolCall("f", {"x": "one"}),))
TWO = Message("assistant", tool_calls=(ToolCall("f", {"x": "one"}), ToolCall("f", {"x": "two"})))
RESULT = Message("tool", "r")

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CALLED = "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}"
TOOLS = "{{ tools | tojson if tools else '' }}"


@pytest.fixture
def made(family):
    def make(source: str, name: str = "qwen3", **how) -> ChatTemplate:
        return ChatTemplate(family(name).tokenizer, source, name="ours.jinja", **how)

    return make


def trained(template: ChatTemplate, *messages: Message, tools: tuple[Tool, ...] = ()) -> list[str]:
    marked = "".join(template.marked(one) for one in template.render(Conversation(messages, tools)))
    return [piece.partition("⟧")[0] for piece in marked.split("⟦")[1:]]


def whole(template: ChatTemplate, *messages: Message, tools: tuple[Tool, ...] = ()) -> list[str]:
    return [template.marked(one) for one in template.render(Conversation(messages, tools))]


# ---------------------------------------------------------------- the generation prompt, unasked


def test_a_generation_prompt_printed_unasked_is_not_trained_and_no_stop(made):
    template = made(
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        "llama3",
    )
    assert trained(template, ASKED, ANSWERED, ASKED, ANSWERED) == ["a<|eot_id|>", "a<|eot_id|>"]
    assert template.dialect.answer_end == "<|eot_id|>"


def test_an_open_turn_before_a_generation_prompt_printed_unasked_ends_at_the_next_role(made):
    template = made(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{{ '<|assistant|>\n' }}", "glm4"
    )
    assert trained(template, ASKED, ANSWERED) == ["a<|user|>"]


# ---------------------------------------------------------------- where a turn of calls ends

CALLS_CLOSED_TOGETHER = (
    TOOLS + "{% for m in messages %}{% if m.tool_calls %}<｜Assistant｜><｜tool▁calls▁begin｜>"
    "{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>"
    "{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}"
    "{% if m.tool_calls | length > 1 %}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>{% endif %}"
    "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>"
    "{% else %}<｜User｜>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
CALL = '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": "%s"}<｜tool▁call▁end｜>'
END = "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"


def test_two_calls_end_where_both_are_closed(made):
    template = made(CALLS_CLOSED_TOGETHER, "deepseek-v3")
    (written,) = trained(template, ASKED, TWO, tools=(TOOL,))
    assert written == "<｜tool▁calls▁begin｜>" + CALL % "one" + CALL % "two" + END


def test_one_call_is_closed_as_several_are_where_its_template_forgets_to(made):
    template = made(CALLS_CLOSED_TOGETHER, "deepseek-v3")
    assert trained(template, ASKED, ONE, tools=(TOOL,)) == ["<｜tool▁calls▁begin｜>" + CALL % "one" + END]


@pytest.mark.parametrize("message", [ONE, TWO])
def test_a_turn_with_its_own_stop_token_inside_is_refused(made, message):
    template = made(
        TOOLS + "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{% for c in m.tool_calls %}"
        "<|im_end|>\n<|im_start|>call\n" + CALLED + "<|im_end|>\n{% endfor %}{% else %}" + TURN + "{% endif %}"
        "{% endfor %}" + PROMPT
    )
    with pytest.raises(TemplateError, match=r"message 2: .* stop token <\|im_end\|> inside .*\"train\": false"):
        trained(template, ASKED, message, tools=(TOOL,))


def test_what_is_printed_after_the_stop_token_is_no_part_of_the_turn(made):
    template = made(
        "{% for m in messages %}"
        + TURN
        + "{% if m.role == 'assistant' %}<|im_end|>\n{% endif %}{% endfor %}"
        + PROMPT
    )
    assert trained(template, ASKED, ANSWERED) == ["a<|im_end|>"]


def test_empty_content_is_null_where_the_template_prints_an_empty_answer_for_it(made):
    source = (
        TOOLS + "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{% for c in m.tool_calls %}"
        "<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>"
        "{% endfor %}<|im_end|>\n{% endif %}{% if m.content is not none %}"
        + TURN
        + "{% endif %}{% endfor %}"
        + PROMPT
    )
    (text,) = whole(made(source), ASKED, ONE, RESULT, ANSWERED, tools=(TOOL,))
    assert text.count("<|im_start|>assistant\n") == 2


# ---------------------------------------------------------------- thoughts

EMPTY_OTHERWISE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n' if m.reasoning_content else '<think></think>' }}"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_empty_thoughts_in_another_form_than_the_prompts_are_written_once(made):
    assert trained(made(EMPTY_OTHERWISE), ASKED, ANSWERED) == ["\n</think>\na<|im_end|>"]
    assert trained(made(EMPTY_OTHERWISE), ASKED, THOUGHT) == ["t\n</think>\na<|im_end|>"]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_go_where_the_template_looks_for_them(made, key):
    source = EMPTY_OTHERWISE.replace("reasoning_content", key)
    assert trained(made(source), ASKED, THOUGHT) == ["t\n</think>\na<|im_end|>"]


LEFT_OUT = (
    "{% for m in messages %}"
    + TURN
    + "{% endfor %}"
    + PROMPT.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")
)


def test_behind_empty_thoughts_that_history_leaves_out_the_answer_is_written(made):
    first, second = whole(made(LEFT_OUT), ASKED, ANSWERED, ASKED, ANSWERED)
    asked = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    empty = "<think>\n\n</think>\n\n"
    assert first == asked + empty + "⟦a<|im_end|>⟧"
    assert second == asked + "a<|im_end|>\n" + asked + empty + "⟦a<|im_end|>⟧"


SOMETIMES = (
    TOOLS + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and WHERE %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    + CALLED
    + "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    + PROMPT
)


@pytest.mark.parametrize("where", ["m.tool_calls", "not m.tool_calls"])
def test_thoughts_printed_on_some_turns_only_are_written_on_all(made, where):
    template = made(SOMETIMES.replace("WHERE", where))
    calling = Message("assistant", tool_calls=ONE.tool_calls, reasoning="t")
    written = trained(template, ASKED, calling, RESULT, THOUGHT, tools=(TOOL,))
    assert written == [
        '<think>t</think><tool_call>{"name": "f", "arguments": {"x": "one"}}</tool_call><|im_end|>',
        "<think>t</think>a<|im_end|>",
    ]


SWITCHED = (
    "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"
)


def test_thoughts_behind_a_prompt_that_has_closed_them_are_refused_with_what_helps(made):
    with pytest.raises(TemplateError) as refused:
        made(SWITCHED).render(Conversation((ASKED, THOUGHT)))
    assert "message 2: the chat template does not print thoughts" in str(refused.value)
    assert "model_config.chat_template_kwargs: {enable_thinking: true}" in str(refused.value)
    assert "data_config.thinking: drop" in str(refused.value)
    helped = made(SWITCHED, options={"enable_thinking": True})
    assert trained(helped, ASKED, THOUGHT) == ["t\n</think>\n\na<|im_end|>"]
    assert trained(made(SWITCHED, thinking="drop"), ASKED, THOUGHT) == ["a<|im_end|>"]


def test_where_no_setting_opens_thoughts_none_is_named(made):
    with pytest.raises(TemplateError, match=r"message 2: .* print thoughts.*; set data_config\.thinking: drop"):
        made(LEFT_OUT).render(Conversation((ASKED, THOUGHT)))


# ---------------------------------------------------------------- history that changes

WITH_THE_LAST_QUESTION = (
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def test_a_system_text_that_moves_to_the_last_question_gives_one_example_a_turn(made):
    template = made(WITH_THE_LAST_QUESTION, "mistral")
    said = (Message("system", "s"), ASKED, ANSWERED, Message("user", "again"), Message("assistant", "b"))
    assert whole(template, *said) == [
        "[INST] s\n\nq[/INST]⟦ a</s>⟧",
        "[INST] q[/INST] a</s>[INST] s\n\nagain[/INST]⟦ b</s>⟧",
    ]


RESULT_CLOSED_LAST = (
    TOOLS + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n{{ m.content }}"
    "{% if loop.last %}<|im_end|>\n{% endif %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>" + CALLED + "</tool_call>{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}" + PROMPT
)


def test_a_result_that_is_printed_otherwise_once_an_answer_follows_stands_as_it_was_asked(made):
    (text,) = whole(made(RESULT_CLOSED_LAST), ASKED, ONE, RESULT, ANSWERED, tools=(TOOL,))
    assert text.endswith("<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>⟧")


def test_history_has_the_ids_that_an_engine_feeds(family):
    """The prompt's line break and the answer's two are one token where an engine encodes the history."""
    template = family("chatml")
    said = (ASKED, Message("assistant", "\n\na"), ASKED, Message("assistant", "b"))
    rendered = template.render(Conversation(said))
    assert len(rendered) == 2
    for one, count in zip(rendered, (1, 3), strict=True):
        text = template.prompt_text(Conversation(said[:count]))
        engine = template.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert one.input_ids[: one.turns[0][0]] == engine == template.prompt(Conversation(said[:count]))


# ---------------------------------------------------------------- what cannot be rendered without


def test_a_template_that_needs_tools_has_calls_and_refuses_conversations_without(made):
    template = made(
        "{% for t in tools %}{{ t.function.name }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
        + CALLED
        + "</tool_call>{% endfor %}<|im_end|>\n"
        "{% endfor %}" + PROMPT
    )
    assert trained(template, ASKED, ANSWERED, tools=(TOOL,)) == ["a<|im_end|>"]
    with pytest.raises(TemplateError, match="renders nothing without tools; give the record `tools`"):
        template.render(Conversation((ASKED, ANSWERED)))


@pytest.mark.parametrize("given", ["functions.f:7", "call_1", None])
def test_calls_named_by_their_ids_get_such_ids(made, given):
    template = made(
        TOOLS + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}"
        "<tool_call>{{ c.id }}{{ c.function.arguments | tojson }}</tool_call>{% endfor %}{{ m.content }}"
        "<|im_end|>\n{% endfor %}" + PROMPT
    )
    calling = Message("assistant", tool_calls=(ToolCall("f", {"x": 1}, given),))
    kept = given if given == "functions.f:7" else "functions.f:0"
    assert trained(template, ASKED, calling, tools=(TOOL,)) == [
        f'<tool_call>{kept}{{"x": 1}}</tool_call><|im_end|>'
    ]


def test_a_turn_that_cannot_be_trained_says_what_keeps_it_out(made):
    template = made(
        "{% for m in messages %}"
        + TURN
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    )
    with pytest.raises(TemplateError, match=r'message 2: .*continuation of its own .*"train": false'):
        template.render(Conversation((ASKED, ANSWERED)))
    assert template.render(Conversation((ASKED, Message("assistant", "a", train=False)))) == ()


def test_an_argument_printed_as_python_is_not_missed(made):
    template = made(
        TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "<tool_call>{{ c.function.name }}({% for k, v in c.function.arguments.items() %}"
        "{{ k }}={{ [v] }}{% endfor %})</tool_call>{% endfor %}<|im_end|>\n{% endfor %}" + PROMPT
    )
    calling = Message("assistant", tool_calls=(ToolCall("f", {"x": 'a\n"b"'}),))
    (written,) = trained(template, ASKED, calling, tools=(TOOL,))
    assert written == "<tool_call>f(x=['a\\n\"b\"'])</tool_call><|im_end|>"

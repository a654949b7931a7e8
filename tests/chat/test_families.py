"""What is found out about each family by rendering, and the turns that follow from it."""

import pytest

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.errors import TemplateError

WEATHER = Tool("get_weather", "Weather", {"type": "object", "properties": {"city": {"type": "string"}}})
CALLING = Conversation(
    (
        Message("user", "weather?"),
        Message("assistant", tool_calls=(ToolCall("get_weather", {"city": "北京", "days": 3}),)),
        Message("tool", "sunny"),
        Message("assistant", "Sunny."),
    ),
    (WEATHER,),
)
THINKING = Conversation(
    (
        Message("user", "q1"),
        Message("assistant", "a1", reasoning="t1"),
        Message("user", "q2"),
        Message("assistant", "a2", reasoning="t2"),
    )
)


@pytest.mark.parametrize(
    ("name", "dialect", "closes", "answer_end", "call_end"),
    [
        ("glm4", "glm4", False, "<|user|>", "<|observation|>"),
        ("glm4-0414", "glm4-0414", False, "<|user|>", "<|observation|>"),
        ("glm-z1", "glm-z1", False, "<|user|>", "<|observation|>"),
        ("glm4.5", "glm4.5", False, "<|user|>", "<|observation|>"),
        ("glm4.6", "glm4.5", False, "<|user|>", "<|observation|>"),
        ("glm4.7", "glm4.7", False, "<|user|>", "<|observation|>"),
        ("glm4.1v", "glm4.1v", False, "</answer>", None),
        ("chatml", "generic", True, "<|im_end|>", None),
        ("qwen3", "generic", True, "<|im_end|>", "<|im_end|>"),
        ("qwen3-coder", "generic", True, "<|im_end|>", "<|im_end|>"),
        ("llama2", "generic", True, "</s>", None),
        ("llama3", "generic", True, "<|eot_id|>", "<|eot_id|>"),
        ("mistral", "generic", True, "</s>", "</s>"),
        ("gemma", "generic", True, "<end_of_turn>", None),
        ("phi", "generic", True, "<|end|>", None),
        ("deepseek-v3", "generic", True, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("deepseek-r1", "generic", True, "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("phi4", "generic", True, "<|end|>", "<|end|>"),
    ],
)
def test_the_stop_token_is_found_by_rendering(family, name, dialect, closes, answer_end, call_end):
    habits = family(name).dialect
    assert (habits.name, habits.closes, habits.answer_end, habits.call_end) == (
        dialect,
        closes,
        answer_end,
        call_end,
    )


@pytest.mark.parametrize(
    ("name", "call", "answer"),
    [
        ("glm4-0414", 'get_weather\n{"city": "北京", "days": 3}<|observation|>', "\nSunny.<|user|>"),
        (
            "glm-z1",
            '\n\n</think>\nget_weather\n{"city": "北京", "days": 3}<|observation|>',
            "\n\n</think>\nSunny.<|user|>",
        ),
        (
            "glm4.5",
            "\n<think></think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call><|observation|>",
            "\n<think></think>\nSunny.<|user|>",
        ),
        (
            "qwen3",
            '<think>\n\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": '
            '{"city": "北京", "days": 3}}\n</tool_call><|im_end|>',
            "<think>\n\n</think>\n\nSunny.<|im_end|>",
        ),
        (
            "glm4.7",
            "</think><tool_call>get_weather<arg_key>city</arg_key><arg_value>北京</arg_value>"
            "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call><|observation|>",
            "</think>Sunny.<|user|>",
        ),
        (
            "qwen3-coder",
            "<tool_call>\n<function=get_weather>\n<parameter=city>\n北京\n</parameter>\n<parameter=days>\n3\n"
            "</parameter>\n</function>\n</tool_call><|im_end|>",
            "Sunny.<|im_end|>",
        ),
        (
            "llama3",
            '{"name": "get_weather", "parameters": {"city": "北京", "days": 3}}<|eot_id|>',
            "Sunny.<|eot_id|>",
        ),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "北京", "days": 3}, '
            '"id": "call00100"}]</s>',
            " Sunny.</s>",
        ),
        (
            "deepseek-v3",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "北京", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>',
            "Sunny.<｜end▁of▁sentence｜>",
        ),
    ],
)  # fmt: skip
def test_calls_are_trained_in_the_familys_own_words(family, name, call, answer):
    template = family(name)
    marked = "".join(template.marked(r) for r in template.render(CALLING))
    assert [piece.split("⟧")[0] for piece in marked.split("⟦")[1:]] == [call, answer]


@pytest.mark.parametrize("name", ["glm-z1", "glm4.5", "qwen3", "deepseek-r1"])
def test_a_template_that_drops_old_thoughts_gives_one_example_per_turn(family, name):
    first, second = family(name).render(THINKING)
    assert "t1" in family(name).marked(first)
    assert "t1" not in family(name).marked(second) and "t2" in family(name).marked(second)


def test_thoughts_are_spelt_where_the_template_drops_even_the_last_ones(family):
    z1 = family("glm-z1")
    assert z1.marked(z1.render(THINKING)[1]) == (
        "[gMASK]<sop><|user|>\nq1<|assistant|>\na1<|user|>\nq2<|assistant|>\n<think>⟦\nt2\n</think>\na2<|user|>⟧"
    )


def test_without_thoughts_a_template_that_drops_them_needs_one_text_only(family):
    plain = Conversation(tuple(Message(m.role, m.content) for m in THINKING.messages))
    assert len(family("glm4.5").render(plain)) == 1


def test_system_text_opens_the_first_question_where_there_is_no_system_role(family):
    conversation = Conversation((Message("system", "be kind"), Message("user", "hi")))
    assert family("gemma").prompt_text(conversation) == (
        "<bos><start_of_turn>user\nbe kind\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (CALLING, "does not print tools"),
        (Conversation(CALLING.messages), "message 2: the chat template does not print tool calls"),
        (Conversation(THINKING.messages), "message 2: the chat template does not print thoughts"),
        (Conversation((Message("user", "a"), Message("tool", "b"), Message("assistant", "c"))), "tool results"),
    ],
)
def test_what_a_template_would_drop_without_a_word_is_refused(family, conversation, reason):
    with pytest.raises(TemplateError, match=reason):
        family("gemma").render(conversation)


def test_a_templates_own_refusal_is_told_in_its_words(family):
    two_questions = Conversation((Message("user", "a"), Message("user", "b"), Message("assistant", "c")))
    with pytest.raises(TemplateError, match=r"gemma.jinja: .*Conversation roles must alternate"):
        family("gemma").render(two_questions)


def test_a_token_that_ends_a_whole_conversation_is_not_the_models_to_write(family):
    phi4 = family("phi4")
    (rendered,) = phi4.render(Conversation((Message("user", "q"), Message("assistant", "a"))))
    assert phi4.marked(rendered) == "<|user|>q<|end|><|assistant|>⟦a<|end|>⟧"


def test_empty_content_beside_a_call_is_null_where_the_template_would_print_an_empty_answer(family):
    r1 = family("deepseek-r1")
    conversation = Conversation(CALLING.messages[:2])
    (rendered,) = r1.render(conversation)
    assert r1.marked(rendered) == (
        "<｜begin▁of▁sentence｜><｜User｜>weather?<｜Assistant｜><think>\n⟦\n</think>\n\n<｜tool▁calls▁begin｜>"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "北京", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>⟧'
    )
    assert r1.parse(rendered.input_ids[slice(*rendered.turns[0])]) == conversation.messages[1]


def test_text_that_the_template_would_cut_off_is_refused(family):
    from finetune.chat.template import ChatTemplate

    plain_words = ChatTemplate(family("glm4").tokenizer, family("glm-z1").source)
    with pytest.raises(TemplateError, match="does not print what stands before '</think>'"):
        plain_words.render(Conversation((Message("user", "a</think>b"), Message("assistant", "c"))))


def test_several_calls_stay_several_where_the_family_has_them(family):
    calls = (ToolCall("f", {"x": 1}), ToolCall("g", {}))
    message = Message("assistant", "Both.", calls)
    for name in ("qwen3", "glm4.5", "deepseek-v3"):
        template = family(name)
        (rendered,) = template.render(Conversation((Message("user", "go"), message)))
        ((start, end),) = rendered.turns
        assert template.parse(rendered.input_ids[start:end]) == message, name


@pytest.mark.parametrize("name", ["chatml", "chatml-spm", "chatml-unigram", "mistral"])
def test_an_answer_merges_with_nothing_before_it(family, name):
    """The prompt's newline and the answer's two are one token when tokenized together: here they are not."""
    template = family(name)
    conversation = Conversation((Message("user", "q"), Message("assistant", "\n\nHello")))
    (rendered,) = template.render(conversation)
    ((start, end),) = rendered.turns
    assert rendered.input_ids[:start] == template.prompt(conversation.before(1))
    assert template.parse(rendered.input_ids[start:end]).content == "\n\nHello"


def test_no_space_strays_into_an_answer(family):
    for name in ("chatml-spm", "chatml-unigram", "gemma"):
        template = family(name)
        (rendered,) = template.render(Conversation((Message("user", "q"), Message("assistant", "Hello"))))
        token = template.tokenizer.convert_ids_to_tokens(rendered.input_ids[rendered.turns[0][0]])
        assert not token.startswith("▁"), name


def test_thinking_can_be_switched_off_in_the_template(family):
    from finetune.chat.template import ChatTemplate

    glm = family("glm4.5")
    silent = ChatTemplate(glm.tokenizer, glm.source, options={"enable_thinking": False})
    (rendered,) = silent.render(Conversation((Message("user", "q"), Message("assistant", "a"))))
    assert (
        silent.marked(rendered) == "[gMASK]<sop><|user|>\nq/nothink<|assistant|>\n<think></think>⟦\na<|user|>⟧"
    )
    assert silent.parse(rendered.input_ids[slice(*rendered.turns[0])]) == Message("assistant", "a")


def test_arguments_read_back_as_what_they_were(family):
    arguments = {"s": "ok", "n": 3, "f": 0.5, "b": True, "z": None, "list": [1, "a"], "o": {"k": "值"}}
    message = Message("assistant", tool_calls=(ToolCall("f", arguments),))
    for name in ("glm4", "glm4.5", "glm4.7", "qwen3", "qwen3-coder", "llama3", "deepseek-v3"):
        template = family(name)
        (rendered,) = template.render(Conversation((Message("user", "go"), message)))
        assert template.parse(rendered.input_ids[slice(*rendered.turns[0])]) == message, name


@pytest.mark.parametrize("given", ["call_abc", "chatcmpl-tool-0123456789abcdef", "aB3dE5gH9", None])
def test_mistral_gets_ids_of_nine_letters_whatever_the_data_has(family, given):
    calling = Message("assistant", tool_calls=(ToolCall("f", {}, given),))
    conversation = Conversation(
        (Message("user", "go"), calling, Message("tool", "r"), Message("assistant", "a"))
    )
    kept = given if given == "aB3dE5gH9" else "call00100"
    (rendered,) = family("mistral").render(conversation)
    assert family("mistral").marked(rendered) == (
        f'<s>[INST] go[/INST]⟦[TOOL_CALLS] [{{"name": "f", "arguments": {{}}, "id": "{kept}"}}]</s>⟧'
        f'[TOOL_RESULTS] {{"content": "r", "call_id": "{kept}"}}[/TOOL_RESULTS]⟦ a</s>⟧'
    )

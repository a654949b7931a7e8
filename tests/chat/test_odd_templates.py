"""Templates as one finds them, and as an adversary would write them: rendered exactly, or refused by name."""

import pytest

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError

ASKED = Message("user", "q")
TALK = Conversation((ASKED, Message("assistant", " a\n"), ASKED, Message("assistant", "b")))
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@pytest.fixture
def made(family):
    def make(source: str, name: str = "chatml") -> ChatTemplate:
        return ChatTemplate(family(name).tokenizer, source, name="odd.jinja")

    return make


def shown(template: ChatTemplate, conversation: Conversation = TALK) -> str:
    return "|".join(template.marked(one) for one in template.render(conversation))


ODD = {
    "one line, nothing between the turns": (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        "[user]q<|im_end|>[assistant]⟦ a\n<|im_end|>⟧[user]q<|im_end|>[assistant]⟦b<|im_end|>⟧",
    ),
    "no generation prompt: the model writes the header too": (
        CHATML,
        "<|im_start|>user\nq<|im_end|>\n⟦<|im_start|>assistant\n a\n<|im_end|>⟧\n"
        "<|im_start|>user\nq<|im_end|>\n⟦<|im_start|>assistant\nb<|im_end|>⟧",
    ),
    "its start of text twice": (
        "<|endoftext|><|endoftext|>" + CHATML + PROMPT,
        "<|endoftext|><|endoftext|><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦ a\n<|im_end|>⟧\n"
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧",
    ),
    "content stripped": (
        CHATML.replace("m.content", "m.content.strip()") + PROMPT,
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>⟧\n<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>assistant\n⟦b<|im_end|>⟧",
    ),
    "generation tags": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endfor %}" + PROMPT,
        "<|im_start|>user\nq<|im_end|><|im_start|>assistant\n⟦ a\n<|im_end|>⟧<|im_start|>user\nq<|im_end|>"
        "<|im_start|>assistant\n⟦b<|im_end|>⟧",
    ),
    "a date": (
        "{{ strftime_now('%Y') }}" + CHATML + PROMPT,
        "2024<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦ a\n<|im_end|>⟧\n"
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧",
    ),
    "the last turn alone, numbered": (
        "{{ messages | length }}{% for m in messages[-1:] %}{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}",
        None,
    ),
    "another header in the prompt than in the history": (
        CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}",
        None,
    ),
    "an end that only the last turn has": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if loop.last and m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "<user>q<assistant>⟦ a\n<|im_end|>⟧|<user>q<assistant> a\n<user>q<assistant>⟦b<|im_end|>⟧",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_template_is_trained_exactly_or_refused(made, kind):
    source, expected = ODD[kind]
    if expected:
        assert shown(made(source)) == expected
    else:
        with pytest.raises(TemplateError, match="not print this turn as a continuation of its own"):
            made(source).render(TALK)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ bos_token + '' }}" + CHATML, "'bos_token' is undefined"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "not print the assistant"),
        ("{{ raise_exception('closed') }}", "closed"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ raise_exception.__globals__.os }}", "unsafe"),
        ("{{ range.__class__.__init__.__globals__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ self.__init__.__globals__ }}", "unsafe"),
        ("{{ ('x' | attr('__class__')) }}{{ ('x' | attr('__class__')).__mro__ }}", "undefined|unsafe"),
        ("{% set _ = messages.clear() %}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{{ lipsum(n=10000000) }}", "'lipsum' is undefined"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "makes more loops"),
        ("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "makes more text"),
        ("{{ 'x' * 10 ** 12 }}", "makes more text"),
        ("{{ 10 ** 12 * [1] }}", "makes more loops and calls"),
        ("{{ 10 ** 100000 }}", "more digits than anything"),
    ],
)  # fmt: skip
def test_a_template_that_fails_reaches_out_or_never_ends_is_refused(made, source, reason):
    with pytest.raises(TemplateError, match=rf"odd\.jinja.*(?:{reason})"):
        made(source)


TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
FORGETFUL = {
    "the last of two system messages": (
        "{% set rules = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% if rules %}{{ rules[-1].content }}{% endif %}"
        "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + PROMPT,
        (Message("system", "one rule"), Message("system", "another"), ASKED, Message("assistant", "a")),
        r"message 1 \(system\)",
    ),
    "the last question": (
        "{% for m in messages[-2:] %}" + TURN + "{% endfor %}" + PROMPT,
        (
            Message("user", "first"),
            Message("assistant", "a"),
            Message("user", "next"),
            Message("assistant", "b"),
        ),
        r"message 1 \(user\)",
    ),
    "the beginning of a question": (
        CHATML.replace("m.content", "m.content[:9]") + PROMPT,
        (Message("user", "a question of some length"), Message("assistant", "a")),
        r"message 1 \(user\)",
    ),
}


@pytest.mark.parametrize("what", FORGETFUL)
def test_a_template_that_prints_only_a_part_of_what_was_said_is_refused(made, what):
    source, messages, said = FORGETFUL[what]
    template = made(source)
    with pytest.raises(TemplateError, match=f"{said}: the chat template does not print it as it is"):
        template.render(Conversation(messages))
    with pytest.raises(TemplateError, match=f"{said}: the chat template does not print it as it is"):
        template.prompt(Conversation(messages[:-1]))


def test_a_template_that_refuses_tools_is_one_without_tools(made):
    template = made("{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML + PROMPT)
    with pytest.raises(TemplateError, match="does not print tools"):
        template.render(Conversation(TALK.messages, (Tool("f"),)))


def test_a_template_that_refuses_calls_is_one_without_calls(made):
    template = made(
        "{% for m in messages if m.tool_calls %}{{ raise_exception('no') }}{% endfor %}" + CHATML + PROMPT
    )
    calling = Conversation((ASKED, Message("assistant", "", (ToolCall("f", {}),))))
    with pytest.raises(TemplateError, match="message 2: the chat template does not print tool calls"):
        template.render(calling)


def test_a_system_text_in_the_middle_is_refused_in_the_templates_words(made):
    template = made(
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('System message must be at the beginning') }}{% endif %}{% endfor %}"
        + CHATML
        + PROMPT
    )
    late = Conversation((ASKED, Message("system", "s"), Message("assistant", "a")))
    with pytest.raises(TemplateError, match=r"odd\.jinja: .*System message must be at the beginning"):
        template.render(late)


def test_a_tokenizer_and_a_template_without_any_stop_are_refused(family):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(
        TemplateError, match=r"ends an assistant's turn with no control token, .* set eos_token"
    ):
        ChatTemplate(bare, "{% for m in messages %}{{ m.content }}{% endfor %}")


CALLED = (
    "{{ '<tool_call>' + {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}</tool_call>"
)
CALLING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}CALLS{% endif %}<|im_end|>\n{% endfor %}"
)
TOOL = Tool("f", "", {"type": "object"})
TWO = Message("assistant", tool_calls=(ToolCall("f", {"x": 11111}), ToolCall("f", {"x": 22222})))
LOSING = {
    "the first of two calls": (
        CALLING.replace("CALLS", "{% set c = m.tool_calls[0] %}" + CALLED),
        TWO,
        "the call of 'f'",
    ),
    "what stands behind a mark": (
        CHATML.replace("m.content", "m.content.split('###')[-1]"),
        Message("assistant", "secret ### answer"),
        "its text",
    ),
}


@pytest.mark.parametrize("what", LOSING)
def test_a_template_that_prints_only_a_part_of_a_turn_is_refused_not_trained(made, what):
    source, turn, lost = LOSING[what]
    template = made("{{ tools | tojson if tools else '' }}" + source + PROMPT, "qwen3")
    with pytest.raises(TemplateError, match=f"message 2: the chat template does not print {lost} unchanged"):
        template.render(Conversation((ASKED, turn), (TOOL,) if turn.tool_calls else ()))


def test_a_system_text_that_somebody_else_says_too_is_missed_all_the_same(made):
    first = "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    template = made(first + "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + PROMPT)
    said = (Message("user", "first"), Message("assistant", "hello"), Message("system", "hello"), ASKED)
    with pytest.raises(TemplateError, match=r"message 3 \(system\): the chat template does not print it"):
        template.render(Conversation((*said, Message("assistant", "b"))))


@pytest.mark.parametrize("name", ["f g", "f\ng", " "])
def test_a_function_whose_name_glm4_could_not_read_back_is_refused(family, name):
    calling = Message("assistant", tool_calls=(ToolCall(name, {}),))
    with pytest.raises(TemplateError, match="name it without spaces"):
        family("glm4").render(Conversation((ASKED, calling), (Tool(name),)))

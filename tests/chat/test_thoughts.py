"""Thoughts: in a field or in the text, trained or dropped, opened by a prompt or switched off."""

import json

import pytest

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config, DataConfig
from finetune.data.checking.check import check_data
from finetune.errors import TemplateError

THINKERS = ["glm-z1", "glm4.1v", "glm4.5", "glm4.6", "glm4.7", "qwen3", "deepseek-r1"]
ASKED = Message("user", "q")


def said(content: str, **other) -> Conversation:
    return Conversation((ASKED, Message("assistant", content, **other)))


def trained(template: ChatTemplate, conversation: Conversation) -> list[str]:
    marked = "".join(template.marked(one) for one in template.render(conversation))
    return [piece.partition("⟧")[0] for piece in marked.split("⟦")[1:]]


def variant(template: ChatTemplate, **how) -> ChatTemplate:
    return ChatTemplate(template.tokenizer, template.source, **how)


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize(
    "content", ["<think>t</think>a", "<think>\nt\n</think>\n\na", "\n<think> t </think> a"]
)
def test_thoughts_in_the_text_are_the_thoughts_of_the_field(family, name, content):
    template = family(name)
    (inline,), (field,) = template.render(said(content)), template.render(said("a", reasoning="t"))
    assert inline == field
    assert template.parse(inline.input_ids[slice(*inline.turns[0])]) == Message("assistant", "a", reasoning="t")


@pytest.mark.parametrize("name", ["glm-z1", "glm4.7", "deepseek-r1"])
def test_behind_a_prompt_that_opens_thoughts_the_first_tag_may_be_missing(family, name):
    template = family(name)
    assert template.render(said("t\n</think>\n\na")) == template.render(said("a", reasoning="t"))


@pytest.mark.parametrize(
    "content", ["Write <think> and </think>.", "One </think>, and another </think>.", "a</think>"]
)
def test_an_answer_about_the_tags_is_no_thought(family, content):
    assert trained(family("deepseek-r1"), said(content))[0].startswith("\n</think>\n\n")


def test_inline_thoughts_before_a_call_are_thoughts(family):
    call = ToolCall("f", {"x": 1})
    message = Message("assistant", "<think>t</think>", (call,))
    (rendered,) = family("glm4.5").render(Conversation((ASKED, message)))
    assert "⟦\n<think>t</think>\n<tool_call>f\n" in family("glm4.5").marked(rendered)


@pytest.mark.parametrize("name", ["chatml", "phi4", "qwen3-coder", "llama3", "gemma"])
def test_a_template_without_words_for_thoughts_shows_them_as_text(family, name):
    content = "<think>\nt\n</think>\n\na"
    assert trained(family(name), said(content)) == [content + family(name).dialect.answer_end]


def test_thoughts_of_the_field_are_not_looked_for_in_the_text(family):
    conversation = said("<think>x</think>a", reasoning="t")
    assert trained(family("glm4.5"), conversation) == ["\n<think>t</think>\n\\<think>x\\</think>a<|user|>"]


def test_a_reference_is_settled_as_an_answer_is_parsed(family):
    conversation = said("<think>t</think>a")
    assert family("glm4.5").settled(conversation) == said("a", reasoning="t")
    assert variant(family("glm4.5"), thinking="drop").settled(conversation) == said("a")
    assert family("chatml").settled(conversation) == conversation


# ---------------------------------------------------------------- left out


@pytest.mark.parametrize("name", [*THINKERS, "glm4", "chatml"])
@pytest.mark.parametrize("conversation", [said("a", reasoning="t"), said("<think>\nt\n</think>\n\na")])
def test_dropped_thoughts_leave_what_the_answer_alone_would_train(family, name, conversation):
    dropping = variant(family(name), thinking="drop")
    assert dropping.render(conversation) == family(name).render(said("a"))


def test_dropping_belongs_to_the_fingerprint(family):
    assert variant(family("glm4.5"), thinking="drop").fingerprint != family("glm4.5").fingerprint


def test_a_message_of_thoughts_alone_cannot_be_dropped_to_nothing(family):
    with pytest.raises(TemplateError, match="message 2: nothing is left of it without its thoughts"):
        variant(family("glm4.5"), thinking="drop").render(said("", reasoning="t"))


def test_a_refusal_of_thoughts_names_the_way_out(family):
    with pytest.raises(TemplateError, match=r"message 2: .* thoughts .*set data_config\.thinking: drop"):
        family("chatml").render(said("a", reasoning="t"))


@pytest.mark.parametrize(
    ("name", "written"),
    [("glm-z1", "\n\n</think>\na"), ("glm4.7", "</think>a"), ("deepseek-r1", "\n</think>\n\na")],
)
def test_behind_a_prompt_that_opens_thoughts_an_answer_alone_closes_them_first(family, name, written):
    dropping = variant(family(name), thinking="drop")
    assert trained(dropping, said("a", reasoning="t")) == [written + dropping.dialect.answer_end]


# ---------------------------------------------------------------- switched off


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("glm4.6", "[gMASK]<sop><|user|>\nq/nothink<|assistant|>\n<think></think>⟦\na<|user|>⟧"),
        ("glm4.7", "[gMASK]<sop><|user|>q<|assistant|></think>⟦a<|user|>⟧"),
        ("qwen3", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n⟦a<|im_end|>⟧"),
    ],
)
def test_a_prompt_without_thoughts_is_trained_as_it_will_be_asked(family, name, whole):
    silent = variant(family(name), options={"enable_thinking": False})
    (rendered,) = silent.render(said("a"))
    assert silent.marked(rendered) == whole
    assert silent.parse(rendered.input_ids[slice(*rendered.turns[0])]) == Message("assistant", "a")


def test_thoughts_behind_a_prompt_that_has_them_off_are_refused(family):
    silent = variant(family("glm4.6"), options={"enable_thinking": False})
    with pytest.raises(TemplateError, match=r"message 2: .*set data_config\.thinking: drop"):
        silent.render(said("a", reasoning="t"))


def test_what_was_switched_is_saved_with_the_template_for_everyone_who_renders(family, tmp_path):
    from transformers import AutoTokenizer

    silent = variant(family("glm4.6"), options={"enable_thinking": False})
    silent.save(tmp_path)
    loaded, theirs = load_template(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    asked = [{"role": "user", "content": "q"}]
    assert loaded.fingerprint == silent.fingerprint
    assert loaded.render(said("a")) == silent.render(said("a"))
    text = theirs.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text == silent.prompt_text(Conversation((ASKED,)))
    assert theirs.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=False, enable_thinking=True
    ) == family("glm4.6").prompt_text(Conversation((ASKED,)))


def test_a_later_run_may_switch_it_again(family):
    silent = variant(family("glm4.6"), options={"enable_thinking": False})
    loud = variant(silent, options={"enable_thinking": True})
    assert loud.render(said("a")) == family("glm4.6").render(said("a"))


@pytest.mark.parametrize("key", ["enable_thinkin", "tools", "messages", "bos_token", "range"])
def test_a_variable_that_the_template_does_not_read_is_refused(family, key):
    with pytest.raises(TemplateError, match=rf"reads no '{key}' .*; it reads clear_thinking, enable_thinking"):
        variant(family("glm4.7"), name="t.jinja", options={key: False})


@pytest.mark.parametrize("value", [True, None, 3, 0.5, "a'b\"c\\ %} {{ 你🍎", ""])
def test_any_value_comes_through(family, value):
    source = family("chatml").source + "{{ effort is none }}{{ effort }}"
    template = ChatTemplate(family("chatml").tokenizer, source, options={"effort": value})
    assert template.prompt_text(Conversation((ASKED,))).endswith(f"{value is None}{value}")


def test_nothink_is_for_people_to_type(family):
    """Its id stands in the prompt, as transformers would put it there."""
    template = family("glm4.6")
    conversation = Conversation((Message("user", "q /nothink"), Message("assistant", "<think></think>a")))
    (rendered,) = template.render(conversation)
    assert rendered.input_ids.count(template.tokenizer.convert_tokens_to_ids("/nothink")) == 1
    assert template.marked(rendered) == (
        "[gMASK]<sop><|user|>\nq /nothink<|assistant|>⟦\n<think></think>\na<|user|>⟧"
    )


# ---------------------------------------------------------------- GLM-4.1V


def test_glm41v_frames_what_it_writes_and_not_its_history(family):
    template = family("glm4.1v")
    turns = (ASKED, Message("assistant", "a", reasoning="t"), ASKED, Message("assistant", "b"))
    first, second = template.render(Conversation(turns))
    assert template.marked(first) == (
        "[gMASK]<sop><|user|>\nq<|assistant|>\n⟦<think>t</think><answer>a</answer>⟧"
    )
    assert template.marked(second) == (
        "[gMASK]<sop><|user|>\nq<|assistant|>\na<|user|>\nq<|assistant|>\n⟦<think></think><answer>b</answer>⟧"
    )


def test_glm41v_data_in_its_own_frame_is_the_same(family):
    template = family("glm4.1v")
    assert template.render(said("<think>\nt</think>\n<answer>a</answer>")) == template.render(
        said("a", reasoning="t")
    )


def test_glm41v_stops_at_the_end_of_its_answer_and_at_the_next_role(family):
    template = family("glm4.1v")
    ids = template.tokenizer.convert_tokens_to_ids
    assert set(template.stop_ids) == {ids("</answer>"), ids("<|user|>"), ids("<|endoftext|>")}


@pytest.mark.parametrize(
    ("written", "content", "reasoning"),
    [
        ("<think>t</think><answer>a</answer>", "a", "t"),
        ("<think>\nt\n</think>\n<answer>a \n</answer><|user|>", "a \n", "t"),
        ("<think>t</think><answer>a", "a", "t"),
        ("<think></think><answer></answer>", "", None),
        ("a<|user|>", "a", None),
    ],
)
def test_glm41v_is_read_with_and_without_its_frame(family, written, content, reasoning):
    template = family("glm4.1v")
    ids = template.tokenizer.backend_tokenizer.encode(written, add_special_tokens=False).ids
    assert template.parse(ids) == Message("assistant", content, reasoning=reasoning)


def test_glm41v_refuses_what_its_template_leaves_out(family):
    template = family("glm4.1v")
    with pytest.raises(TemplateError, match="message 2: the chat template does not print tool calls"):
        template.render(said("", tool_calls=(ToolCall("f", {}),)))


# ---------------------------------------------------------------- said once


def test_a_system_text_that_moves_is_said_once(family, capsys):
    template = variant(family("gemma"))
    conversation = Conversation((Message("system", "s"), ASKED, Message("assistant", "a")))
    for _ in range(2):
        template.render(conversation)
    assert capsys.readouterr().err.count("no system role: a system text opens the user message after it") == 1


def test_text_beside_a_call_is_refused_where_the_template_drops_it(family):
    spoken = said("Let me look.", tool_calls=(ToolCall("f", {}),))
    for name in ("llama3", "mistral"):
        with pytest.raises(TemplateError, match=r"message 2: .* does not print the text beside tool calls"):
            family(name).render(spoken)


EMPTY = {
    # family: what is learnt of "a" by default, and with skip-empty
    "qwen3": ("<think>\n\n</think>\n\na<|im_end|>", "a<|im_end|>"),
    "glm4.5": ("\n<think></think>\na<|user|>", "a<|user|>"),
    "deepseek-r1": ("\n</think>\n\na<｜end▁of▁sentence｜>", "a<｜end▁of▁sentence｜>"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_thought_of_the_template_s_own_can_be_context(family, name):
    template = family(name)
    by_default, skipped = EMPTY[name]
    assert trained(template, said("a")) == [by_default]
    skipping = variant(template, thinking="skip-empty")
    assert trained(skipping, said("a")) == [skipped]
    one, other = template.render(said("a"))[0], skipping.render(said("a"))[0]
    # what the model reads is the same; a line break of the prompt and one of the thought may be one token now
    assert template.tokenizer.decode(one.input_ids) == template.tokenizer.decode(other.input_ids)


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("message", [{"content": "a", "reasoning": "t"}, {"content": "<think></think>a"}])
def test_thoughts_of_the_data_are_learnt_even_where_they_are_empty(family, name, message):
    template = family(name)
    assert variant(template, thinking="skip-empty").render(said(**message)) == template.render(said(**message))


@pytest.mark.parametrize("name", EMPTY)
def test_of_several_turns_each_leaves_its_own_empty_thought_out(family, name):
    turns = (ASKED, Message("assistant", "a"), ASKED, Message("assistant", " b", reasoning="t"))
    template, skipping = family(name), variant(family(name), thinking="skip-empty")
    first, last = trained(skipping, Conversation(turns))
    assert first == EMPTY[name][1]
    assert last == trained(template, Conversation(turns))[-1]
    assert [template.tokenizer.decode(one.input_ids) for one in skipping.render(Conversation(turns))] == [
        template.tokenizer.decode(one.input_ids) for one in template.render(Conversation(turns))
    ]


@pytest.mark.parametrize("name", ["chatml", "llama3", "glm4"])
def test_a_template_without_empty_thoughts_is_learnt_as_ever(family, name):
    template = family(name)
    assert variant(template, thinking="skip-empty").render(said("a")) == template.render(said("a"))


@pytest.mark.parametrize(
    ("family_name", "thinking", "shares"),
    [
        (None, "train", "40.0% with thoughts, 40.0% without thoughts, 20.0% with empty thoughts; data_config"),
        (
            "qwen3",
            "train",
            "40.0% with thoughts, 0.0% without thoughts, 60.0% with empty thoughts; data_config",
        ),
        ("qwen3", "skip-empty", "40.0% with thoughts, 40.0% without thoughts, 20.0% with empty thoughts"),
        ("qwen3", "drop", "0.0% with thoughts, 0.0% without thoughts, 100.0% with empty thoughts"),
        ("chatml", "drop", None),
    ],
)
def test_the_share_of_learnt_turns_with_thoughts_is_told(family_name, thinking, shares, family, tmp_path):
    answers = [
        {"content": "a", "reasoning_content": "t"},
        {"content": "<think>t</think>b"},
        {"content": "c"},
        {"content": "d"},
        {"content": "<think>\n\n</think>\n\ne"},
        {"content": "not learnt", "reasoning_content": "t", "train": False},
    ]
    rows = [[{"role": "user", "content": "q"}, {"role": "assistant"} | answer] for answer in answers]
    path = tmp_path / "thoughts.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    config = Config(data_config=DataConfig(train_file=str(path), thinking=thinking))
    plain = None if family_name is None else family(family_name)
    template = plain and ChatTemplate(plain.tokenizer, plain.source, thinking=thinking)
    told = [
        line for line in check_data(str(path), template, config).lines() if line.startswith("learnt turns: ")
    ]
    assert [line.startswith(f"learnt turns: {shares}") for line in told] == ([] if shares is None else [True])
    assert all(("skip-empty" in line) == (thinking == "train") for line in told)

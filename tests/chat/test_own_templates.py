"""Our own chat templates: exact masks, calls that are read back, stop tokens, and what a tokenizer may lack."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.own_templates import lacking, suggest
from finetune.chat.template import ChatTemplate
from finetune.config.load import load_config
from finetune.errors import ConfigError, TemplateError
from finetune.shipped import TEMPLATES, template_file
from tests.chat.conftest import FAMILIES, GEMMA, GLM, LLAMA, QWEN, train_tokenizer

SPECIAL = {"chatml": QWEN, "chatml-tools": QWEN, "glm4": GLM, "llama3": LLAMA, "gemma": GEMMA}
EOS = {
    "chatml": "<|im_end|>",
    "chatml-tools": "<|im_end|>",
    "glm4": GLM[0],
    "llama3": LLAMA[1],
    "gemma": "<eos>",
}
BOS = {"llama3": LLAMA[0], "gemma": "<bos>"}

WEATHER = Tool("get_weather", "Weather", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = ToolCall("get_weather", {"city": 'Rom "Süd"', "days": 2})
OTHER = ToolCall("get_weather", {"city": "Lima"})
ASK, ANSWER = Message("user", "hello there"), Message("assistant", "Good day.")
AGAIN, MORE = Message("user", "and now?"), Message("assistant", "  Now\n\nthis.\n")
SYSTEM = Message("system", "Be brief.")
RESULT = Message("tool", '{"sky": "clear"}')
CASES: dict[str, Conversation] = {
    "plain": Conversation((ASK, ANSWER)),
    "multi-turn": Conversation((ASK, ANSWER, AGAIN, MORE)),
    "system": Conversation((SYSTEM, ASK, ANSWER, AGAIN, MORE)),
    "thinking": Conversation((ASK, Message("assistant", "Yes.", reasoning="It asks."), AGAIN, ANSWER)),
    "tools": Conversation((SYSTEM, ASK, Message("assistant", tool_calls=(CALL,)), RESULT, ANSWER), (WEATHER,)),
    "text and call": Conversation(
        (ASK, Message("assistant", "Let me see.", (CALL,)), RESULT, ANSWER), (WEATHER,)
    ),
    "parallel": Conversation(
        (ASK, Message("assistant", tool_calls=(CALL, OTHER)), RESULT, RESULT, ANSWER), (WEATHER,)
    ),
}
PRINTS: dict[str, set[str]] = {
    "chatml": {"plain", "multi-turn", "system", "thinking"},
    "chatml-tools": set(CASES),
    "glm4": {"plain", "multi-turn", "system", "tools", "text and call"},
    "llama3": {"plain", "multi-turn", "system", "tools"},
    "gemma": {"plain", "multi-turn", "system"},
}
"""What a template has words for; all else is refused."""


def tokenizer_of(special: list[str], eos: str, bos: str | None = None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer("bytes", special), eos_token=eos, bos_token=bos, pad_token=special[0]
    )


@pytest.fixture(scope="module")
def ours() -> dict[str, ChatTemplate]:
    """Each of our templates on a tokenizer that was made for it."""
    return {
        name: ChatTemplate(
            tokenizer_of(SPECIAL[name], EOS[name], BOS.get(name)), template_file(name).read_text(), name=name
        )
        for name in TEMPLATES
    }


def test_every_template_has_a_name_and_every_name_a_template() -> None:
    assert {file.stem for file in template_file("glm4").parent.glob("*.jinja")} == set(TEMPLATES) == set(PRINTS)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_is_what_the_model_writes_and_reads_back_as_it_was(
    name: str, case: str, ours: dict[str, ChatTemplate]
) -> None:
    template, conversation = ours[name], CASES[case]
    if case not in PRINTS[name]:
        with pytest.raises(TemplateError):
            template.render(conversation)
        return
    turns = conversation.assistant_turns()
    spans = [(one, span) for one in template.render(conversation) for span in one.turns]
    assert len(spans) == len(turns)
    for turn, (rendered, (start, end)) in zip(turns, spans, strict=True):
        learnt = {i for first, last in rendered.turns for i in range(first, last)}
        assert [i for i, learns in enumerate(rendered.loss_mask) if learns] == sorted(learnt)
        assert rendered.input_ids[:start] == template.prompt(conversation.before(turn))
        assert rendered.input_ids[end - 1] in template.stop_ids
        message, read = conversation.messages[turn], template.parse(rendered.input_ids[start:end])
        assert [(c.name, dict(c.arguments)) for c in read.tool_calls] == [
            (c.name, dict(c.arguments)) for c in message.tool_calls
        ]
        assert (read.content.strip(), read.reasoning) == (message.content.strip(), message.reasoning)


STOPS = {
    "chatml": ["<|im_end|>"],
    "chatml-tools": ["<|im_end|>"],
    "glm4": ["<|user|>", "<|observation|>", "<|endoftext|>"],
    "llama3": ["<|eot_id|>", "<|end_of_text|>"],
    "gemma": ["<end_of_turn>", "<eos>"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_stop_tokens_are_those_of_the_format(name: str, ours: dict[str, ChatTemplate]) -> None:
    template = ours[name]
    assert template.tokenizer.convert_ids_to_tokens(list(template.stop_ids)) == STOPS[name]
    assert lacking(template.tokenizer, template.source) == []


TEXTS = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    ),
    "glm4": "[gMASK]<sop><|system|>\nBe brief.<|user|>\nhello there<|assistant|>",
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "gemma": "<bos><start_of_turn>user\nBe brief.\n\nhello there<end_of_turn>\n<start_of_turn>model\n",
}
TEXTS["chatml-tools"] = TEXTS["chatml"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_reads_as_the_family_writes_it(name: str, ours: dict[str, ChatTemplate]) -> None:
    assert ours[name].prompt_text(Conversation((SYSTEM, ASK))) == TEXTS[name]


@pytest.mark.parametrize(
    ("special", "tools", "name"),
    [
        (QWEN, False, "chatml"),
        (QWEN, True, "chatml-tools"),
        (GLM, False, "glm4"),
        (LLAMA, True, "llama3"),
        (GEMMA, False, "gemma"),
        (GEMMA, True, "chatml-tools"),
        (["<|endoftext|>"], False, "chatml"),
    ],
)
def test_a_template_is_suggested_by_the_tokens_that_there_are(
    special: list[str], tools: bool, name: str
) -> None:
    assert suggest(tokenizer_of(special, special[0]), tools=tools)[0] == name


def test_marks_without_tokens_are_told_and_still_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer_of(["<|endoftext|>"], "<|endoftext|>").save_pretrained(tmp_path)
    template = load_template(tmp_path, chat_template=template_file("chatml"))
    said = capsys.readouterr().err
    assert "has no token for <|im_start|>, <|im_end|>: they are written as plain characters" in said
    assert "the model stops by <|endoftext|>" in said
    conversation = CASES["multi-turn"]
    rendered = template.render(conversation)
    assert len(rendered) == 2, "an example for each turn: history has no <|endoftext|>"
    for turn, one in zip(conversation.assistant_turns(), rendered, strict=True):
        ((start, end),) = one.turns
        assert one.input_ids[:start] == template.prompt(conversation.before(turn))
        written = template.tokenizer.decode(one.input_ids[start:end])
        assert written == conversation.messages[turn].content + "<|im_end|>\n<|endoftext|>"
    assert [template.tokenizer.decode([i]) for i in template.stop_ids] == ["<|endoftext|>"]


def test_the_checkpoint_s_own_template_is_never_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tokenizer_of(["<|endoftext|>"], "<|endoftext|>")
    tokenizer.chat_template = template_file("chatml").read_text()
    tokenizer.save_pretrained(tmp_path)
    load_template(tmp_path)
    assert "no token for" not in capsys.readouterr().err


def test_a_checkpoint_without_a_template_is_told_which_would_do(tmp_path: Path) -> None:
    tokenizer_of(LLAMA, LLAMA[1]).save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match=r"model_config.chat_template: llama3 \(chatml, chatml-tools, glm4"):
        load_template(tmp_path)


def test_a_name_in_the_yaml_is_one_of_ours_unless_a_file_is_called_so(tmp_path: Path) -> None:
    yaml = tmp_path / "c.yaml"
    yaml.write_text("data_config: {train_file: a.jsonl}\nmodel_config: {chat_template: chatml-tools}\n")
    assert load_config(yaml).model.chat_template == str(template_file("chatml-tools"))
    (tmp_path / "chatml-tools").write_text("{{ messages }}")
    assert load_config(yaml).model.chat_template == str(tmp_path / "chatml-tools")
    yaml.write_text("data_config: {train_file: a.jsonl}\nmodel_config: {chat_template: chatlm}\n")
    with pytest.raises(ConfigError, match=r"2:31: .*: no file chatlm; .*did you mean chatml\?"):
        load_config(yaml)


def test_what_is_tuned_is_saved_with_the_template(tmp_path: Path, ours: dict[str, ChatTemplate]) -> None:
    ours["chatml-tools"].save(tmp_path)
    again = load_template(tmp_path)
    assert again.source == template_file("chatml-tools").read_text()
    assert again.prompt(CASES["tools"].before(2)) == ours["chatml-tools"].prompt(CASES["tools"].before(2))


def test_families_of_the_tests_use_our_glm4() -> None:
    assert FAMILIES["glm4"].file.endswith("configs/templates/glm4.jinja")

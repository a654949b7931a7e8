"""Conversations for properties: everything a record may hold that a family of templates can spell."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from tests.chat.conftest import FAMILIES

WITH_TOOLS = {
    "glm4", "glm4-0414", "glm-z1", "glm4.5", "glm4.6", "glm4.7", "qwen3", "qwen3-coder", "llama3", "mistral",
    "deepseek-v3", "phi4",
}  # fmt: skip
WITH_THOUGHTS = {"glm-z1", "glm4.1v", "glm4.5", "glm4.6", "glm4.7", "qwen3", "deepseek-r1"}
OPENS_THOUGHTS = {"glm-z1", "glm4.7", "deepseek-r1"}
TRIMS = {"glm-z1", "glm4.5", "glm4.6", "glm4.7", "llama2", "llama3", "gemma", "deepseek-r1", "qwen3"}
ONE_CALL = {"glm4", "glm4-0414", "glm-z1", "llama3"}
NO_TEXT_BEFORE_CALLS = {"llama3", "mistral"}
# Their tokenizers eat the newline after a control token, or put a space there: what is trained shows neither.
LOSSY = {"phi", "chatml-spm", "chatml-unigram", "llama2"}
# Their tokenizers write a space as this character, and so cannot write the character itself.
SENTENCEPIECE = LOSSY | {"gemma", "mistral"}

_CONTROLS = (
    "<|user|> <|assistant|> <|observation|> <|endoftext|> [gMASK] <sop> <|im_end|> <|im_start|> </s> <s> <unk> "
    "[INST] <|eot_id|> <end_of_turn> <eos> <|end|> <｜end▁of▁sentence｜> <think> </think> </answer> <|image|> "
    "<tool_call> </tool_call> @@ctl: @@ctl:1@@ <0x0A>"
)
CONTROLS = _CONTROLS.split()

_LETTERS = st.sampled_from(
    [*"abcXYZ019 \n\t.,{}[]\"'<>|/\\:-_", "你", "好", "天气", "é", "e\u0301", "🍎", "👩\u200d🚀", "\ufffd"]
)
_WORDS = st.sampled_from(
    ["the ", "weather", " in", "\n\n", "  ", "今天", "是", "```json\n", "I'll", "<b>", "{{ x }}", "{% y %}"]
)
_PLAIN = st.lists(st.one_of(_LETTERS, _WORDS), min_size=1, max_size=8).map("".join)
_SPICED = st.lists(st.one_of(_LETTERS, _WORDS, st.sampled_from(CONTROLS)), min_size=1, max_size=8).map("".join)
_SPACE = st.sampled_from(["", "\n", "\n\n", " "])
_NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)


class Voice:
    """What people type, in one family: `spiced` with control tokens, spelt in every kind of text, or plain."""

    def __init__(self, family: str, *, spiced: bool) -> None:
        self.text = _SPICED if spiced else _PLAIN
        self.content = self.text.filter(lambda text: bool(text.strip()))
        self.trimmed = self.content.map(str.strip)
        self.said = self.trimmed if family in TRIMS else self.content
        own = st.sampled_from(["", "", *FAMILIES[family].special])
        self.names = st.builds(str.__add__, _NAMES, own) if spiced else _NAMES
        bare = self.trimmed.filter(lambda text: not _is_json(text) and "arg_" not in text)
        numbers = st.lists(st.integers(0, 9), max_size=3)
        arguments = st.dictionaries(
            self.names, st.one_of(bare, st.integers(-99, 99), st.booleans(), numbers), max_size=2
        )
        self.calls = st.builds(ToolCall, self.names, arguments)
        self.tools = st.builds(
            Tool,
            self.names,
            st.one_of(st.just(""), self.text),
            st.fixed_dictionaries({"type": st.just("object"), "properties": self._properties()}),
        )

    def _properties(self) -> st.SearchStrategy[dict[str, Any]]:
        """Nested schemas, with nulls as Arrow leaves them."""
        leaves = st.fixed_dictionaries(
            {"type": st.sampled_from(["string", "integer"])},
            optional={"description": self.text, "default": st.none()},
        )
        arrays = st.fixed_dictionaries({"type": st.just("array"), "items": leaves})
        objects = st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(self.names, leaves, max_size=2)}
        )
        return st.dictionaries(self.names, st.one_of(leaves, arrays, objects), max_size=2)


VOICES = {(family, spiced): Voice(family, spiced=spiced) for family in FAMILIES for spiced in (False, True)}


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def marker(turn: int) -> str:
    """What stands in the answer of message `turn`, and nowhere else."""
    return f"Qref{turn}q"


@st.composite
def answers(draw: st.DrawFn, family: str, voice: Voice, turn: int) -> Message:
    """An answer; with thoughts in their field or before it in its text, or with what looks like thoughts."""
    said = draw(voice.said)
    if draw(st.booleans()):
        said = f"{said[:1]}{marker(turn)}{said[1:]}" if said[0].isalpha() else f"{marker(turn)}{said}"
    message = Message("assistant", said, train=draw(st.integers(0, 5)) > 0)
    match draw(st.integers(0, 5)):
        case 0 if family in WITH_THOUGHTS:
            return replace(message, reasoning=draw(voice.trimmed))
        case 1:
            thoughts = f"<think>{draw(_SPACE)}{draw(voice.trimmed)}{draw(_SPACE)}</think>{draw(_SPACE)}"
            return replace(message, content=thoughts + said)
        case 2 if family in OPENS_THOUGHTS:
            return replace(message, content=f"{draw(voice.trimmed)}\n</think>{draw(_SPACE)}{said}")
    return message


@st.composite
def calling(draw: st.DrawFn, family: str, voice: Voice) -> list[Message]:
    """A turn that calls tools, and their results in a row."""
    called = tuple(draw(voice.calls) for _ in range(1 if family in ONE_CALL else draw(st.integers(1, 3))))
    before = draw(st.one_of(st.just(""), voice.trimmed)) if family not in NO_TEXT_BEFORE_CALLS else ""
    thoughts = draw(voice.trimmed) if family in WITH_THOUGHTS and draw(st.booleans()) else None
    results = draw(st.integers(1, 2)) if family in ONE_CALL else len(called)
    turn = Message("assistant", before, called, thoughts, train=draw(st.integers(0, 5)) > 0)
    return [turn, *(Message("tool", draw(voice.trimmed)) for _ in range(results))]


@st.composite
def any_conversations(draw: st.DrawFn, family: str) -> Conversation:
    voice = VOICES[family, draw(st.booleans())]
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message("system", draw(st.one_of(st.just(""), voice.trimmed))))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3]))):
        messages.append(Message("user", draw(voice.trimmed)))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])) if family in WITH_TOOLS else 0):
            messages += draw(calling(family, voice))
        messages.append(draw(answers(family, voice, len(messages))))
    declared = draw(st.lists(voice.tools, max_size=2)) if family in WITH_TOOLS else []
    return Conversation(tuple(messages), tuple(declared))


def conversations(family: str) -> st.SearchStrategy[Conversation]:
    """System text, questions, answers with and without thoughts, calls and their results; at times tools."""
    unwritable = (["▁"] if family in SENTENCEPIECE else []) + (["<0x"] if family == "chatml-unigram" else [])
    return any_conversations(family).filter(
        lambda conversation: (
            not any(what in repr(conversation) for what in unwritable)
            and all(
                settled(family, message).content or message.tool_calls for message in answered(conversation)
            )
        )
    )


def answered(conversation: Conversation) -> list[Message]:
    return [message for message in conversation.messages if message.role == "assistant"]


def settled(family: str, message: Message) -> Message:
    """The message with thoughts that stand in its text apart, where the family has words for thoughts."""
    if message.role != "assistant" or family not in WITH_THOUGHTS or message.reasoning is not None:
        return message
    said = message.content.lstrip()
    lone = family in OPENS_THOUGHTS and said.count("</think>") == 1 and "<think>" not in said
    if not (lone or (said.startswith("<think>") and "</think>" in said)):
        return message
    thoughts, _, answer = said.removeprefix("<think>").partition("</think>")
    if lone and not (answer.strip() or message.tool_calls):
        return message
    return replace(message, content=answer.lstrip(), reasoning=thoughts.strip() or None)

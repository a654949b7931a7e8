"""Tool calls in the chat templates of others: whatever a template writes whole, `parse` reads back."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.template import ChatTemplate
from finetune.errors import TemplateError
from tests.chat.conftest import train_tokenizer
from tests.real import things

pytestmark = pytest.mark.real

_MARKERS = re.compile(
    r"<[|｜][^<>\s'{}]*?>|<[^<>\s'{}\"=]*?[|｜]>|\[/?[A-Z_]{3,}\]|</?(?:think|s|bos|eos|tool_calls?)>|<SPECIAL_\d+>"
    r"|<(?:start|end)_of_turn>|<end_of_sentence>|<seed:[a-z]+>|\]~b\[|\[e~\["
)
_ENDS = (
    "<|return|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|eot_id|>", "<|end|>", "<｜end▁of▁sentence｜>",
    "</s>", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>", "[e~[", "<seed:eos>", "<|endoftext|>",
)  # fmt: skip
"""What may be eos_token, the likeliest first."""

SOME = ToolCall("get_weather", {"city": "Paris", "n": 3})
NONE = ToolCall("stop_now", {})
VALUES = [
    "two words", 'He said "no", it\'s\n\tnot\\here', "né 你好 🍎", "<b>x</b> & y", "a, b=1) c", "", 7, -3, 0.5,
    True, False, None, [], [1, 2.5, "x y"], {}, {"c": "d", "e": [True, None, {"f": "g's \"h\""}]},
]  # fmt: skip
TURNS = [
    Message("assistant", "", (SOME,)),
    Message("assistant", "", (NONE,)),
    Message("assistant", "", (SOME, NONE)),
    Message("assistant", "", (NONE, SOME)),
    Message("assistant", "I will look.", (SOME,)),
    *(Message("assistant", "", (ToolCall("look", {"at_place": value}),)) for value in VALUES),
    Message("assistant", "", (ToolCall("look", {f"at_{n}": value for n, value in enumerate(VALUES)}),)),
]


@cache
def plain_tokenizer() -> str:
    return train_tokenizer("bytes", []).to_str()


def template_of(file: Path) -> ChatTemplate | None:
    """With a tokenizer that has its markers as tokens; None where it takes no conversation as it is."""
    source = file.read_text(encoding="utf-8")
    end = next((token for token in _ENDS if token in source), "<|eos|>")
    tokenizer = Tokenizer.from_str(plain_tokenizer())
    tokens = sorted({*_MARKERS.findall(source), end, "<bos>"})
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token=end)
    try:
        return ChatTemplate(wrapped, source, name=file.name)
    except TemplateError:
        return None


def written(template: ChatTemplate) -> Iterator[tuple[Message, list[int]]]:
    """The turns that are trained exactly, and their ids."""
    for turn in TURNS:
        tools = tuple({call.name: Tool(call.name, "does it") for call in turn.tool_calls}.values())
        asked = Conversation((Message("user", "q"), turn), tools if template.dialect.tells_tools else ())
        try:
            (rendered,) = template.render(asked)
        except TemplateError:
            continue
        yield turn, rendered.input_ids[slice(*rendered.turns[0])]


def meant(message: Message) -> str:
    return json.dumps([[call.name, dict(call.arguments)] for call in message.tool_calls], sort_keys=True)


def said(message: Message) -> str:
    """Text beside calls; gpt-oss writes it as it writes thoughts."""
    return message.content or message.reasoning or ""


UNREADABLE = {"MiniMax-M3.jinja"}  # it spells nested objects in tags of their own


def test_calls_that_a_template_of_others_trains_are_read_back_equal() -> None:
    folders = (things.trl_templates(), things.llama_cpp_templates())
    read, unread, wrong = set(), set(), []
    for file in sorted(file for folder in folders for file in folder.glob("*.jinja")):
        if (template := template_of(file)) is None:
            continue
        for turn, ids in written(template):
            found = template.parse(ids)
            if not template.reads_calls:
                unread.add(file.name)
            elif (said(found), meant(found)) == (said(turn), meant(turn)):
                read.add(file.name)
            else:
                wrong.append(f"{file.name}: {template.visible(ids)}: {found}")
    assert not wrong
    assert unread <= UNREADABLE
    assert len(read) >= 70

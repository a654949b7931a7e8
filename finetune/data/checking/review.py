"""What is odd about a conversation that can be learnt as it stands: remarks, never refusals.

Nearly every conversation has nothing odd about it, so that one is told at a glance; the others take their time.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.chat.messages import Conversation, KeyPath, Message, Tool, ToolCall
from finetune.data.checking.schemas import UnusableSchemaError, check_schema, misfits
from finetune.data.encode import Source
from finetune.data.reading.formats import PlainText
from finetune.data.reading.image_parts import IMAGE
from finetune.data.reading.raw_calls import looks_like_a_call

_LEAK = re.compile(
    r"<\|(?:user|assistant|system|observation|im_start|im_end|im_sep|endoftext|eot_id|start_header_id"
    r"|end_header_id|begin_of_text|end|start|message|channel)\|>|<(?:start|end)_of_turn>|\[/?INST\]|\[gMASK\]"
    r"|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>"
)
"""What a chat template writes between turns: in data, the trace of a template that was applied before."""

_TRANSCRIPT = re.compile(
    r"### ?(?:Human|User|Instruction)\b.*### ?(?:Assistant|Response)\b|</s>\s*$", re.DOTALL
)
"""How documents spell turns without tokens, and a text's end as Llama 2 writes it."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning about what stands at `path` in a record."""

    code: str
    message: str
    path: KeyPath


def review(source: Source) -> Iterator[Remark]:
    """What a person should look at, in the order of the messages; what the tools' schemas say comes last."""
    if isinstance(source, PlainText):
        yield from _about_document(source.text)
    else:
        yield from _about_conversation(source)


def _about_document(text: str) -> Iterator[Remark]:
    if found := _LEAK.search(text) or _TRANSCRIPT.search(text):
        mark = found[0] if len(found[0]) < 20 else found[0][:16] + "…"
        reason = f"the text holds {mark!r}, which a chat template writes; it will be learnt as plain text"
        yield Remark("W527", f"{reason}: write the turns as messages", ())


def _about_conversation(conversation: Conversation) -> Iterator[Remark]:
    messages = conversation.messages
    if not conversation.tools and _is_plain(messages):
        return
    if not conversation.assistant_turns():
        yield Remark("W522", "no assistant turn: there is nothing to learn from", ())
    for index, message in enumerate(messages):
        name = _name(message, index)
        yield from _about_order(message, name, messages[:index])
        if IMAGE in message.content:
            reason = f"{name} holds {IMAGE}, and no picture stands there: it will be read as plain text"
            yield Remark("W529", reason, (*message.at, "content"))
        if message.role == "assistant":
            yield from _about_answer(message, name, messages[:index], conversation.tools)
    yield from _about_calls(conversation)


def _is_plain(messages: Sequence[Message]) -> bool:
    """Whether user and assistant speak in turn, without tools, and no answer needs a closer look."""
    before, said = "", ""
    for message in messages:
        role, content = message.role, message.content
        if role == "assistant":
            if message.tool_calls or content == said or content.startswith("{"):
                return False
            if "<" in content or "[" in content:
                return False
        elif role == "tool" or IMAGE in content:
            return False
        if role == before:
            return False
        if role != "system":
            before, said = role, content
    return before == "assistant" or any(message.role == "assistant" for message in messages)


def _name(message: Message, index: int) -> str:
    """The message's number as the record counts it, where it has a list of messages."""
    listed = message.at[:1] in (("messages",), ("conversations",))
    return f"message {int(message.at[1]) + 1 if listed else index + 1}"


def _about_order(message: Message, name: str, before: Sequence[Message]) -> Iterator[Remark]:
    last = next((earlier for earlier in reversed(before) if earlier.role != "system"), None)
    if last is None or message.role not in ("user", "assistant"):
        return
    if calls := _unanswered(before):
        reason = f"{name} ({message.role}) comes before the result of the call of {calls[0]!r}"
        yield Remark("W526", reason, message.at)
    elif message.role == last.role == "user":
        yield Remark("W520", f"{name} is a second user turn in a row", message.at)
    elif message.role == last.role:
        yield Remark("W521", f"{name} is a second assistant turn in a row", message.at)


def _unanswered(before: Sequence[Message]) -> Sequence[str]:
    """Names of the last turn's calls that no result followed."""
    for results, message in enumerate(reversed(before)):
        if message.role != "tool":
            return [call.name for call in message.tool_calls[results:]]
    return []


def _about_answer(
    message: Message, name: str, before: Sequence[Message], tools: Sequence[Tool]
) -> Iterator[Remark]:
    if leak := _LEAK.search(message.content):
        reason = f"{name} holds {leak[0]!r}, which a chat template writes; it will be learnt as plain text"
        yield Remark("W527", reason, (*message.at, "content"))
    if not message.tool_calls and looks_like_a_call(message.content, [tool.name for tool in tools]):
        reason = f"{name} looks like a tool call and is none: it will be learnt as plain text"
        yield Remark("W531", reason, (*message.at, "content"))
    if before and before[-1].role == "user" and message.content == before[-1].content != "":
        yield Remark("W528", f"{name} repeats the question word for word", message.at)


def _about_calls(conversation: Conversation) -> Iterator[Remark]:
    wrong = {tool.name: remark for tool in conversation.tools if (remark := _about_schema(tool))}
    usable = {tool.name: tool for tool in conversation.tools if tool.name not in wrong}
    yield from wrong.values()
    for index, message in enumerate(conversation.messages):
        name = _name(message, index)
        if message.tool_calls and not conversation.tools:
            called = message.tool_calls[0].name
            yield Remark("W523", f"{name} calls {called!r}, but no tool is declared", message.at)
        for number, call in enumerate(message.tool_calls):
            if call.name in usable:
                path = (*message.at, "tool_calls", number)
                yield from _about_arguments(call, usable[call.name], name, path)


def _about_schema(tool: Tool) -> Remark | None:
    try:
        check_schema(tool.parameters)
    except UnusableSchemaError as problem:
        return _bad_schema(tool, problem)
    return None


def _bad_schema(tool: Tool, problem: UnusableSchemaError) -> Remark:
    return Remark(
        "W525", f"the parameters of the tool {tool.name!r} are no valid JSON Schema: {problem}", ("tools",)
    )


def _about_arguments(call: ToolCall, tool: Tool, name: str, path: KeyPath) -> Iterator[Remark]:
    try:
        for misfit in misfits(tool.parameters, call.arguments):
            reason = f"{name}: the call of {call.name!r} does not fit the tool's schema: {misfit}"
            yield Remark("W524", reason, path)
    except UnusableSchemaError as problem:
        yield _bad_schema(tool, problem)

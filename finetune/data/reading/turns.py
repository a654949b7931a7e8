"""One record's list of turns -> Conversation: the ways of writing messages, tools and calls.

A tool call comes in many spellings, and leaves as one `ToolCall`:
    OpenAI          {"role": "assistant", "tool_calls": [{"function": {"name": …, "arguments": …}}]}
    OpenAI, old     {"role": "assistant", "function_call": {"name": …, "arguments": …}}
    GLM-4, data     {"role": "assistant", "metadata": "<name>", "content": "<arguments as JSON>"}
    ChatGLM3        {"role": "tool", "name": …, "parameters": …, "observation": …}     a call and its result
    in the text     {"role": "assistant", "content": "{\\"name\\": …, \\"arguments\\": …}"}     see raw_calls.py
"""

import json
from collections.abc import Sequence
from typing import Any

from finetune.chat.messages import Accepted, Conversation, Image, Message, Role, Tool, ToolCall
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.reading.image_parts import content_of_parts, own_images, with_images
from finetune.data.reading.marks import weight_of
from finetune.data.reading.raw_calls import calls_in_text
from finetune.data.reading.tools import accepted_calls, call_arguments, tool_call, tool_list
from finetune.data.reading.turn import Turn

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What a turn's thoughts are called: by most, by some APIs, by gpt-oss."""


Declared = tuple[Any, str] | None


def conversation(turns: Sequence[Turn], tools: Declared = None, images: Any = None) -> Conversation:
    """The conversation that `turns` spell. Raises WrongRecordError, naming the message by its number from 1.

    tools: the record's own, and the key that they stand under.
    """
    turns = _with_calls_of_their_own(turns)
    declared = _declared_tools(turns, tools)
    names = [tool.name for tool in declared]
    messages: list[Message] = []
    waiting: list[str | None] = []  # ids of the calls whose results have not come yet
    for index, turn in enumerate(turns):
        result_follows = index + 1 < len(turns) and turns[index + 1].role_or_none() == "tool"
        message = _message(turn, names if declared or result_follows else None)
        if message is None:
            continue
        if message.role == "tool":
            _take_result(turn, waiting)
        else:
            waiting = [call.id for call in message.tool_calls]
        messages.append(message)
    if not messages:
        raise WrongRecordError("E205", "no message but an empty system message", turns[0].at)
    _check_calls(messages, declared)
    return Conversation(with_images(messages, images), declared)


def _with_calls_of_their_own(turns: Sequence[Turn]) -> Sequence[Turn]:
    """With ChatGLM3's turns of tools as two: the call, in the assistant's turn before it, and its result."""
    if not any("observation" in turn.fields for turn in turns):
        return turns
    spelt: list[Turn] = []
    for turn in turns:
        if turn.role_or_none() != "tool" or "observation" not in turn.fields:
            spelt.append(turn)
            continue
        call = {"name": turn.fields.get("name"), "arguments": turn.fields.get("parameters")}
        says = spelt[-1].fields if spelt and spelt[-1].role_or_none() == "assistant" else None
        if says is None or says.get("tool_calls"):
            spelt.append(Turn({"role": "assistant", "tool_calls": [call]}, turn.number, turn.at))
        else:
            spelt[-1] = spelt[-1]._replace(fields={**says, "tool_calls": [call]})
        spelt.append(turn._replace(fields={"role": "tool", "content": _as_text(turn.fields["observation"])}))
    return spelt


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _take_result(turn: Turn, waiting: list[str | None]) -> None:
    """Match a tool's result with the first call that waits for one: results stand in the order of the calls."""
    if not waiting:
        raise turn.wrong("E207", " is a tool result without a call before it")
    call, names = waiting.pop(0), turn.fields.get("tool_call_id")
    if call is not None and isinstance(names, str) and names != call:
        expected = f"the next call without a result has {call!r}"
        raise turn.wrong("E222", f" is the result of the call {names!r}; {expected}", "tool_call_id")


def _check_calls(messages: Sequence[Message], declared: Sequence[Tool]) -> None:
    """Each call is of a declared tool, where any is declared."""
    names = {tool.name for tool in declared}
    for message in messages if names else ():
        for index, call in enumerate(message.tool_calls):
            if call.name not in names:
                reason = f"a call of {call.name!r}, which is not among the tools {', '.join(sorted(names))}"
                raise WrongRecordError("E214", reason, (*message.at, "tool_calls", index))


def _message(turn: Turn, declared: Sequence[str] | None) -> Message | None:
    """None for a system message that only carried the tools. `declared`: None where a text can be no call."""
    fields, role = turn.fields, turn.role()
    content, images = _content(turn)
    content, calls = _calls(turn, role, content, declared)
    reasoning = _reasoning(turn, role)
    if role == "system" and fields.get("tools") and not content.strip():
        return None
    if role in ("user", "assistant") and not (calls or images or reasoning or content.strip()):
        raise turn.wrong("E205", f" ({role}) is empty; write its content or leave the record out", "content")
    weight, accepted = weight_of(turn, role), _accepted(turn, len(calls))
    return Message(role, content, calls, reasoning, images, weight > 0, weight or 1.0, turn.at, accepted)


def _content(turn: Turn) -> tuple[str, tuple[Image, ...]]:
    value = turn.fields.get("content", "")
    if isinstance(value, str):
        return own_images(turn.fields, value, str(turn), turn.at)
    if isinstance(value, list):
        text, images = content_of_parts(value, str(turn), (*turn.at, "content"))
        return text, own_images(turn.fields, "", str(turn), turn.at)[1] + images
    advice = "; write a tool's result as a JSON string" if isinstance(value, dict) else ""
    raise turn.wrong("E206", f": content is {json_kind(value)}; expected text{advice}", "content")


def _reasoning(turn: Turn, role: Role) -> str | None:
    key = next((key for key in THOUGHTS if turn.fields.get(key)), None)
    if key is None:
        return None
    if role != "assistant":
        raise turn.wrong("E215", f" ({role}) has {key}; only the assistant thinks", key)
    return text_of(turn.fields[key], f"{turn}: {key}", (*turn.at, key))


def _calls(
    turn: Turn, role: Role, content: str, declared: Sequence[str] | None
) -> tuple[str, tuple[ToolCall, ...]]:
    """What the turn says beside its calls, and the calls."""
    fields = turn.fields
    if fields.get("function_call"):
        return content, (_function_call(turn, role),)
    if fields.get("tool_calls"):
        return content, _listed_calls(turn, role)
    if role != "assistant":
        return content, ()
    name = fields.get("metadata")
    if isinstance(name, str) and name.strip():
        where = f"{turn} (metadata {name.strip()!r})"
        return "", (ToolCall(name.strip(), call_arguments(content, where, (*turn.at, "content"))),)
    return (declared is not None and calls_in_text(content, declared)) or (content, ())


def _function_call(turn: Turn, role: Role) -> ToolCall:
    """OpenAI's first way: one call, without an id."""
    key = "function_call"
    if turn.fields.get("tool_calls"):
        raise turn.wrong("E216", " has function_call and tool_calls; write its calls once", key)
    if role != "assistant":
        raise turn.wrong("E215", f" ({role}) has {key}; only the assistant calls tools", key)
    path = (*turn.at, key)
    return tool_call(decoded(turn.fields[key], f"{turn}: {key}", path), str(turn), path)


def _listed_calls(turn: Turn, role: Role) -> tuple[ToolCall, ...]:
    path = (*turn.at, "tool_calls")
    listed = decoded(turn.fields["tool_calls"], f"{turn}: tool_calls", path)
    if listed and role != "assistant":
        raise turn.wrong("E215", f" ({role}) has tool_calls; only the assistant calls tools", "tool_calls")
    if not isinstance(listed, list):
        raise turn.wrong("E209", f": tool_calls is {json_kind(listed)}; expected an array", "tool_calls")
    calls = tuple(tool_call(call, str(turn), (*path, index)) for index, call in enumerate(listed))
    ids = [call.id for call in calls if call.id is not None]
    twice = next((one for one in ids if ids.count(one) > 1), None)
    if twice is not None:
        raise turn.wrong("E221", f": two tool calls have the id {twice!r}", "tool_calls")
    return calls


def _accepted(turn: Turn, calls: int) -> tuple[Accepted, ...]:
    given, path = turn.fields.get("accepted_calls"), (*turn.at, "accepted_calls")
    return () if given is None else accepted_calls(given, calls, f"{turn}", path)


def _declared_tools(turns: Sequence[Turn], tools: Declared) -> tuple[Tool, ...]:
    """The record's tools, from its top level or from its system message."""
    found = tool_list(tools[0], (tools[1],)) if tools and tools[0] else ()
    for turn in turns:
        if not turn.fields.get("tools"):
            continue
        if turn.role_or_none() != "system":
            raise turn.wrong("E212", " has tools; they belong on the system message", "tools")
        path = (*turn.at, "tools")
        declared = tool_list(turn.fields["tools"], path)
        if found and declared and declared != found:
            raise WrongRecordError("E212", "tools are declared twice, and differently", path)
        found = found or declared
    return found

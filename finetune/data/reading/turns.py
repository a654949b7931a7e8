"""One record's list of turns -> Conversation: OpenAI's and GLM-4's ways of writing messages, tools and calls.

A tool call comes in three spellings, and leaves as one `ToolCall`:
    OpenAI          {"role": "assistant", "tool_calls": [{"function": {"name": …, "arguments": …}}]}
    GLM-4, data     {"role": "assistant", "metadata": "<name>", "content": "<arguments as JSON>"}
    GLM-4, README   {"role": "assistant", "content": "{\\"name\\": …, \\"arguments\\": …}"}
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune.chat.messages import Conversation, Image, KeyPath, Message, Role, Tool, ToolCall
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.reading.image_parts import content_of_parts, own_images, with_images
from finetune.data.reading.tools import call_arguments, call_in_text, tool_call, tool_list

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


MOST_WEIGHT = 1000.0
"""Of a turn: as for a file of a mixture."""


class Turn(NamedTuple):
    """One entry of a record's list of turns, its number from 1, and where in the record it stands."""

    fields: Mapping[str, Any]
    number: int
    at: KeyPath

    def __str__(self) -> str:
        return f"message {self.number}"

    def wrong(self, code: str, reason: str, *inside: str | int) -> WrongRecordError:
        """What is wrong with the turn, or with what stands `inside` it."""
        return WrongRecordError(code, f"{self}{reason}", (*self.at, *inside))


def turn_list(value: Any, path: KeyPath) -> list[Turn]:
    """The turns in a list, or in a JSON string of one. Raises WrongRecordError."""
    listed = decoded(value, "the list of messages", path) if value != "" else []
    if not isinstance(listed, list):
        reason = f"the messages are {json_kind(listed)}; expected an array of messages"
        raise WrongRecordError("E203", reason, path)
    if not listed:
        raise WrongRecordError("E203", "the list of messages is empty", path)
    return [_turn(fields, number, (*path, number - 1)) for number, fields in enumerate(listed, 1)]


def _turn(fields: Any, number: int, at: KeyPath) -> Turn:
    if not isinstance(fields, dict):
        reason = f"message {number} is {json_kind(fields)}; expected an object with a role"
        raise WrongRecordError("E203", reason, at)
    if None in fields.values():  # null means the same as no field: in OpenAI's format, and after Arrow
        fields = {key: value for key, value in fields.items() if value is not None}
    return Turn(fields, number, at)


def conversation(turns: Sequence[Turn], tools: Any = None, images: Any = None) -> Conversation:
    """The conversation that `turns` spell. Raises WrongRecordError, naming the message by its number from 1."""
    declared = _declared_tools(turns, tools)
    messages: list[Message] = []
    waiting: list[str | None] = []  # ids of the calls whose results have not come yet
    for turn in turns:
        message = _message(turn, calls_in_text=bool(declared) or _result_follows(turn, turns))
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


def _result_follows(turn: Turn, turns: Sequence[Turn]) -> bool:
    return turn.number < len(turns) and _role_or_none(turns[turn.number]) == "tool"


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


def _role_or_none(turn: Turn) -> Role | None:
    role = turn.fields.get("role")
    return _ROLES.get(role) if isinstance(role, str) else None


def _role(turn: Turn) -> Role:
    role = _role_or_none(turn)
    if role is not None:
        return role
    if "role" not in turn.fields:
        hint = "; this looks like ShareGPT: name the list `conversations`" if "from" in turn.fields else ""
        raise turn.wrong("E204", f" has no role{hint}")
    found = turn.fields["role"]
    hint = " (use 'tool' for results)" if found == "function" else ""
    raise turn.wrong("E204", f" has role {found!r}; expected system, user, assistant or tool{hint}", "role")


def _message(turn: Turn, *, calls_in_text: bool) -> Message | None:
    """None for a system message that only carried the tools."""
    fields, role = turn.fields, _role(turn)
    content, images = _content(turn)
    calls = _calls(turn, role, content, calls_in_text)
    if calls and not fields.get("tool_calls"):
        content = ""
    reasoning = _reasoning(turn, role)
    if role == "system" and fields.get("tools") and not content.strip():
        return None
    if role in ("user", "assistant") and not (calls or images or reasoning or content.strip()):
        raise turn.wrong("E205", f" ({role}) is empty; write its content or leave the record out", "content")
    train, weight = _train(turn, role)
    return Message(role, content, calls, reasoning, images, train, weight, turn.at)


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
    key = "reasoning_content" if "reasoning_content" in turn.fields else "reasoning"
    value = turn.fields.get(key)
    if not value:
        return None
    if role != "assistant":
        raise turn.wrong("E215", f" ({role}) has {key}; only the assistant thinks", key)
    return text_of(value, f"{turn}: {key}", (*turn.at, key))


def _train(turn: Turn, role: Role) -> tuple[bool, float]:
    """Whether the turn is to be learnt, and how much its tokens count: by `train`, `weight`, or both.

    `weight` is OpenAI's (1 or 0), or any number from 0 on.
    """
    train, weight = _flag(turn, "train"), _weight(turn)
    if train is not None and weight is not None and train != (weight > 0):
        raise turn.wrong("E218", ": train and weight contradict each other", "weight")
    if role != "assistant" and (train or weight):
        key = "train" if "train" in turn.fields else "weight"
        raise turn.wrong("E215", f" ({role}) asks to be learnt; only the assistant's turns can be", key)
    return train is not False and weight != 0, weight or 1.0


def _flag(turn: Turn, key: str) -> bool | None:
    value = turn.fields.get(key)
    if value is None or value in (0, 1):
        return None if value is None else bool(value)
    raise turn.wrong("E218", f": {key} is {value!r}; expected true or false", key)


def _weight(turn: Turn) -> float | None:
    value = turn.fields.get("weight")
    if value is None or (isinstance(value, int | float) and 0 <= value <= MOST_WEIGHT):
        return None if value is None else float(value)
    reason = f": weight is {value!r}; expected a number from 0 (not learnt) to {MOST_WEIGHT:g}, as a rule 1"
    raise turn.wrong("E217", reason, "weight")


def _calls(turn: Turn, role: Role, content: str, calls_in_text: bool) -> tuple[ToolCall, ...]:
    fields = turn.fields
    if "function_call" in fields:
        raise turn.wrong("E216", " has function_call; write it as tool_calls", "function_call")
    if fields.get("tool_calls"):
        return _listed_calls(turn, role)
    if role != "assistant":
        return ()
    name = fields.get("metadata")
    if isinstance(name, str) and name.strip():
        where = f"{turn} (metadata {name.strip()!r})"
        return (ToolCall(name.strip(), call_arguments(content, where, (*turn.at, "content"))),)
    return call_in_text(content) if calls_in_text else ()


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


def _declared_tools(turns: Sequence[Turn], tools: Any) -> tuple[Tool, ...]:
    """The record's tools, from its top level or from its system message."""
    found = tool_list(tools, ("tools",)) if tools else ()
    for turn in turns:
        if not turn.fields.get("tools"):
            continue
        if _role_or_none(turn) != "system":
            raise turn.wrong("E212", " has tools; they belong on the system message", "tools")
        path = (*turn.at, "tools")
        declared = tool_list(turn.fields["tools"], path)
        if found and declared and declared != found:
            raise WrongRecordError("E212", "tools are declared twice, and differently", path)
        found = found or declared
    return found

"""How families of templates want a conversation handed to them: the dicts that their Jinja reads.

Two spellings cover the field. GLM-4 (9B and 0414) writes a tool call as `metadata` (the function's name) and
content (its arguments), and calls a result `observation`. Everyone else reads OpenAI's dicts. What a template
does with them (how it ends a turn, where it looks for tools) is found by rendering: see habits.py.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.chat.messages import Image, Message, Tool
from finetune.errors import TemplateError

Groups = list[list[dict[str, Any]]]
_SHORT = re.compile("[a-zA-Z0-9]{9}")

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Where templates look for thoughts, and data has them; the likeliest first."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a family's Jinja reads. `message` gives the dicts of one message: none, one or several."""

    name: str
    message: Callable[[Message], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one template wants beyond its spelling."""

    tools_on_message: bool = False
    arguments_as_text: bool = False
    empty_content_as_null: bool = False
    system_role: bool = True
    short_call_ids: bool = False
    """Of nine letters or digits, as Mistral's templates demand."""
    named_call_ids: bool = False
    """`functions.NAME:N`, as Kimi's templates print instead of the name."""
    reasoning_key: str = "reasoning_content"


def spell(
    spelling: Spelling, wishes: Wishes, messages: Sequence[Message], tools: Sequence[Tool]
) -> tuple[Groups, list[dict[str, Any]] | None]:
    """The dicts of each message, and the `tools` argument of the template."""
    kept = messages if wishes.system_role else _system_into_user(messages)
    groups = [spelling.message(message) if message else [] for message in kept]
    _pair_results(groups, wishes)
    if wishes.arguments_as_text or wishes.empty_content_as_null:
        _respell_calls(groups, wishes)
    if wishes.reasoning_key != REASONING_KEYS[0]:
        _rename_reasoning(groups, wishes.reasoning_key)
    if not tools:
        return groups, None
    described = [describe(tool) for tool in tools]
    if not wishes.tools_on_message:
        return groups, described
    _put_tools_on_first(groups, messages[0], described)
    return groups, None


def describe(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI's shape. Absent parts stay absent: a null would be printed into the prompt."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = _without_nulls(tool.parameters) or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def _put_tools_on_first(groups: Groups, first: Message, described: list[dict[str, Any]]) -> None:
    """On the system message where there is one, else on an empty one before everything."""
    if first.role == "system" and groups[0]:
        groups[0][0]["tools"] = described
    else:
        groups[0].insert(0, {"role": "system", "content": "", "tools": described})


def _system_into_user(messages: Sequence[Message]) -> list[Message | None]:
    """For templates without a system role: its text opens the next user message. Messages keep their places."""
    moved: list[Message | None] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            if message.images:
                raise TemplateError("the chat template has no system role to show an image in", message.at)
            waiting += [message.content] if message.content else []
            moved.append(None)
        elif waiting and message.role == "user":
            moved.append(_opened(message, "\n\n".join([*waiting, ""])))
            waiting = []
        else:
            moved.append(message)
    if waiting:
        raise TemplateError(
            "the chat template has no system role, and no user message follows to carry its text"
        )
    return moved


def _opened(message: Message, opening: str) -> Message:
    """The message with a text before all it says and shows."""
    images = tuple(replace(image, offset=image.offset + len(opening)) for image in message.images)
    return replace(message, content=opening + message.content, images=images)


def _pair_results(groups: Groups, wishes: Wishes) -> None:
    """Give every call an id, its own where the template takes it, and every result its call's."""
    waiting: list[dict[str, Any]] = []
    made = 0
    for number, message in enumerate(message for spelt in groups for message in spelt):
        if "tool_calls" in message:
            waiting = message["tool_calls"].copy()
            for place, call in enumerate(waiting):
                call["id"] = _call_id(call, (number, place, made + place), wishes)
            made += len(waiting)
        elif message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            message |= {"tool_call_id": call["id"], "name": call["function"]["name"]}


def _call_id(call: dict[str, Any], places: tuple[int, int, int], wishes: Wishes) -> str:
    """`places`: the message's, the call's in it, and the call's in the conversation."""
    given, (number, place, count) = call["id"], places
    if wishes.named_call_ids:
        name = f"functions.{call['function']['name']}:"
        return given if given and given.startswith(name) else f"{name}{count}"
    is_kept = given and (not wishes.short_call_ids or _SHORT.fullmatch(given))
    return given if is_kept else f"call{number:03d}{place:02d}"


def _rename_reasoning(groups: Groups, key: str) -> None:
    for message in (message for spelt in groups for message in spelt if REASONING_KEYS[0] in message):
        message[key] = message.pop(REASONING_KEYS[0])


def _respell_calls(groups: Groups, wishes: Wishes) -> None:
    for message in (message for spelt in groups for message in spelt if "tool_calls" in message):
        if wishes.empty_content_as_null:
            message["content"] = message["content"] or None
        for call in message["tool_calls"] if wishes.arguments_as_text else ():
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)


def _glm4_message(message: Message) -> list[dict[str, Any]]:
    """GLM-4: text before a call, or none; `metadata` names the function."""
    if len(message.tool_calls) > 1:
        names = ", ".join(call.name for call in message.tool_calls)
        raise TemplateError(
            f"GLM-4 writes one tool call per turn, this message has {len(message.tool_calls)} ({names}); "
            "give each call an assistant message of its own, followed by its result",
            message.at,
        )
    for call in message.tool_calls:
        if len(call.name.split()) != 1:
            reason = (
                f"GLM-4 writes a function's name on a line of its own, so {call.name!r} could not be read back"
            )
            raise TemplateError(f"{reason}; name it without spaces", message.at)
    role = "observation" if message.role == "tool" else message.role
    spelt = [{"role": role, "content": _content(message)}] if message.content or message.images else []
    spelt += [
        {"role": role, "metadata": call.name, "content": json.dumps(call.arguments, ensure_ascii=False)}
        for call in message.tool_calls
    ]
    if not spelt and message.role != "system":
        reason = f"GLM-4 renders nothing for an empty {message.role} message; give it content"
        raise TemplateError(reason, message.at)
    return spelt


def _openai_message(message: Message) -> list[dict[str, Any]]:
    spelt: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.reasoning:
        spelt["reasoning_content"] = message.reasoning
    if message.tool_calls:
        spelt["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return [spelt]


def _content(message: Message) -> str | list[dict[str, Any]]:
    """The text, or where images stand in it, a list of its parts."""
    return [_part(part) for part in message.parts()] if message.images else message.content


def _part(part: str | Image) -> dict[str, Any]:
    return {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part}


GLM4 = Spelling("glm4", _glm4_message)
OPENAI = Spelling("openai", _openai_message)


def choose_spelling(source: str, controls: Sequence[str]) -> Spelling:
    """By what the template reads and the tokens there are, never by a model's name."""
    glm4 = "<|observation|>" in controls and "metadata" in source
    return GLM4 if glm4 else OPENAI

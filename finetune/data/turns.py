"""One record's list of turns -> Conversation: OpenAI's and GLM-4's ways of writing messages, tools and calls.

A tool call comes in three spellings, and leaves as one `ToolCall`:
    OpenAI          {"role": "assistant", "tool_calls": [{"function": {"name": …, "arguments": …}}]}
    GLM-4, data     {"role": "assistant", "metadata": "<name>", "content": "<arguments as JSON>"}
    GLM-4, README   {"role": "assistant", "content": "{\\"name\\": …, \\"arguments\\": …}"}
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.chat.messages import Conversation, Image, Message, Role, Tool, ToolCall
from finetune.data.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.tools import call_arguments, call_in_text, tool_call, tool_list

IMAGE = "<image>"
"""In a message's text: where one of the record's images stands."""

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def conversation(turns: Any, tools: Any = None, images: Any = None) -> Conversation:
    """The conversation that `turns` spell. Raises WrongRecordError, naming the message by its number from 1."""
    listed = _turn_list(turns)
    declared = _declared_tools(listed, tools)
    messages: list[Message] = []
    waiting = 0  # calls whose results have not come yet
    for number, turn in enumerate(listed, 1):
        followed_by_result = number < len(listed) and _role_or_none(listed[number]) == "tool"
        message = _message(turn, number, calls_in_text=bool(declared) or followed_by_result)
        if message is None:
            continue
        if message.role == "tool" and waiting == 0:
            raise WrongRecordError("E207", f"message {number} is a tool result without a call before it")
        waiting = waiting - 1 if message.role == "tool" else len(message.tool_calls)
        messages.append(message)
    if not messages:
        raise WrongRecordError("E205", "no message but an empty system message")
    return Conversation(_with_images(messages, images), declared)


def _turn_list(turns: Any) -> list[dict[str, Any]]:
    turns = decoded(turns, "the list of messages")
    if not isinstance(turns, list):
        raise WrongRecordError("E203", f"the messages are {json_kind(turns)}; expected an array of messages")
    if not turns:
        raise WrongRecordError("E203", "the list of messages is empty")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise WrongRecordError(
                "E203", f"message {number} is {json_kind(turn)}; expected an object with a role"
            )
    # A null field means the same as no field, in OpenAI's format and after a trip through Arrow.
    return [{key: value for key, value in turn.items() if value is not None} for turn in turns]


def _role_or_none(turn: Mapping[str, Any]) -> Role | None:
    role = turn.get("role")
    return _ROLES.get(role) if isinstance(role, str) else None


def _role(turn: Mapping[str, Any], number: int) -> Role:
    if "role" not in turn:
        hint = "; this looks like ShareGPT: name the list `conversations`" if "from" in turn else ""
        raise WrongRecordError("E204", f"message {number} has no role{hint}")
    role = _role_or_none(turn)
    if role is None:
        hint = " (use 'tool' for results)" if turn["role"] == "function" else ""
        expected = "expected system, user, assistant or tool"
        raise WrongRecordError("E204", f"message {number} has role {turn['role']!r}; {expected}{hint}")
    return role


def _message(turn: Mapping[str, Any], number: int, *, calls_in_text: bool) -> Message | None:
    """None for a system message that only carried the tools."""
    role = _role(turn, number)
    content, images = _content(turn, number)
    calls = _calls(turn, number, role, content, calls_in_text)
    if calls and not turn.get("tool_calls"):
        content = ""
    reasoning = _reasoning(turn, number, role)
    if role == "system" and not content.strip() and turn.get("tools"):
        return None
    if role in ("user", "assistant") and not (content.strip() or calls or images or reasoning):
        raise WrongRecordError(
            "E205", f"message {number} ({role}) is empty; write its content or leave the record out"
        )
    return Message(role, content, calls, reasoning, images, _train(turn, number, role))


def _content(turn: Mapping[str, Any], number: int) -> tuple[str, tuple[Image, ...]]:
    value = turn.get("content", "")
    if isinstance(value, list):
        text, images = _parts(value, number)
        return text, _own_image(turn, number) + images
    if not isinstance(value, str):
        advice = "; write a tool's result as a JSON string" if isinstance(value, dict) else ""
        raise WrongRecordError(
            "E206", f"message {number}: content is {json_kind(value)}; expected text{advice}"
        )
    return value, _own_image(turn, number)


def _own_image(turn: Mapping[str, Any], number: int) -> tuple[Image, ...]:
    """GLM-4's way: a path beside the content."""
    return (Image(text_of(turn["image"], f"message {number}: image")),) if turn.get("image") else ()


def _parts(parts: list[Any], number: int) -> tuple[str, tuple[Image, ...]]:
    texts: list[str] = []
    images: list[Image] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(text_of(part.get("text"), f"message {number}: the text of a content part"))
        elif kind in ("image", "image_url"):
            texts.append(IMAGE)
            images.append(_image(part, number))
        else:
            raise WrongRecordError(
                "E219", f"message {number}: a content part of type {kind!r}; expected text or image"
            )
    return "".join(texts), tuple(images)


def _image(part: Mapping[str, Any], number: int) -> Image:
    place = part.get("image_url") or part.get("image") or part.get("path") or part.get("url")
    address = text_of(place.get("url") if isinstance(place, dict) else place, f"message {number}: an image")
    if not address.startswith("data:"):
        return Image(address)
    try:
        return Image(data=base64.b64decode(address.partition(",")[2], validate=True))
    except binascii.Error:
        raise WrongRecordError("E219", f"message {number}: the image's data: URL is not base64") from None


def _reasoning(turn: Mapping[str, Any], number: int, role: Role) -> str | None:
    value = turn.get("reasoning_content", turn.get("reasoning"))
    if not value:
        return None
    if role != "assistant":
        raise WrongRecordError(
            "E215", f"message {number} ({role}) has reasoning_content; only the assistant thinks"
        )
    return text_of(value, f"message {number}: reasoning_content")


def _train(turn: Mapping[str, Any], number: int, role: Role) -> bool:
    """Whether the turn is to be learnt, by `train` (true, false) or OpenAI's `weight` (1, 0)."""
    wishes: set[bool] = set()
    for key in ("train", "weight"):
        if key not in turn:
            continue
        value = turn[key]
        if value not in (0, 1):
            raise WrongRecordError(
                "E217", f"message {number}: {key} is {value!r}; expected 0 or 1 (a turn is learnt or not)"
            )
        wishes.add(bool(value))
    if len(wishes) == 2:
        raise WrongRecordError("E218", f"message {number}: train and weight contradict each other")
    if True in wishes and role != "assistant":
        raise WrongRecordError(
            "E215", f"message {number} ({role}) asks to be learnt; only the assistant's turns can be"
        )
    return False not in wishes


def _calls(
    turn: Mapping[str, Any], number: int, role: Role, content: str, calls_in_text: bool
) -> tuple[ToolCall, ...]:
    listed = decoded(turn.get("tool_calls") or [], f"message {number}: tool_calls")
    if "function_call" in turn:
        raise WrongRecordError("E216", f"message {number} has function_call; write it as tool_calls")
    if listed and role != "assistant":
        raise WrongRecordError(
            "E215", f"message {number} ({role}) has tool_calls; only the assistant calls tools"
        )
    if not isinstance(listed, list):
        raise WrongRecordError(
            "E209", f"message {number}: tool_calls is {json_kind(listed)}; expected an array"
        )
    if listed:
        return tuple(tool_call(call, f"message {number}") for call in listed)
    if role != "assistant":
        return ()
    name = turn.get("metadata")
    if isinstance(name, str) and name.strip():
        return (
            ToolCall(name.strip(), call_arguments(content, f"message {number} (metadata {name.strip()!r})")),
        )
    return call_in_text(content) if calls_in_text else ()


def _declared_tools(turns: Sequence[Mapping[str, Any]], tools: Any) -> tuple[Tool, ...]:
    """The record's tools, from its top level or from its system message."""
    found = [tool_list(tools)] if tools else []
    for number, turn in enumerate(turns, 1):
        if not turn.get("tools"):
            continue
        if _role_or_none(turn) != "system":
            raise WrongRecordError("E212", f"message {number} has tools; they belong on the system message")
        found.append(tool_list(turn["tools"]))
    found = [declared for declared in found if declared]
    if any(declared != found[0] for declared in found):
        raise WrongRecordError("E212", "tools are declared twice, and differently")
    return found[0] if found else ()


def _with_images(messages: Sequence[Message], images: Any) -> tuple[Message, ...]:
    """Hand the record's top-level `images` to the messages whose text has their places, in order."""
    if not images:
        return tuple(messages)
    if not isinstance(images, list):
        raise WrongRecordError("E220", f"images is {json_kind(images)}; expected an array of paths")
    places = sum(message.content.count(IMAGE) for message in messages)
    if places != len(images):
        raise WrongRecordError(
            "E220", f"{len(images)} images, but {places} places marked {IMAGE} in the messages"
        )
    paths = [Image(text_of(image, "an image")) for image in images]
    return tuple(_take_images(message, paths) for message in messages)


def _take_images(message: Message, paths: list[Image]) -> Message:
    count = message.content.count(IMAGE)
    taken, paths[:] = tuple(paths[:count]), paths[count:]
    return replace(message, images=message.images + taken)

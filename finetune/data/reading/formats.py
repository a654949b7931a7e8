"""The ways people write conversations down, one function each: Record -> Conversation.

messages            {"messages": [{"role": …, "content": …}, …], "tools": […]}
sharegpt            {"conversations": [{"from": …, "value": …}, …], "tools": "…", "system": "…"}
alpaca              {"instruction": …, "input": …, "output": …, "system": …, "history": [[…, …], …]}
prompt-completion   {"prompt": …, "completion": …}      text, or lists of messages
text                {"text": …}                         continued pretraining

A list may be a JSON string of one, as it must be in a table's cell.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune.chat.messages import Conversation, KeyPath, Message
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.reading.image_parts import listed_images
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.turns import Turn, conversation, turn_list
from finetune.errors import DataError

Format = Literal["messages", "sharegpt", "alpaca", "prompt-completion", "text"]


@dataclass(frozen=True, slots=True)
class PlainText:
    """A document without turns; every token of it is learnt."""

    text: str


class RecordError(DataError):
    """A record that is no conversation; `problem` says where and why."""

    def __init__(self, problem: Malformed) -> None:
        super().__init__(str(problem))
        self.problem = problem


def detect_format(data: Mapping[str, Any]) -> tuple[Format, str]:
    """A record's format by its keys, and the reason in words. Raises WrongRecordError if it is none of them."""
    if "messages" in data:
        return "messages", 'records have "messages"'
    if "conversations" in data:
        if _has_roles(data["conversations"]):
            return "messages", 'records have "conversations" whose turns have a "role"'
        return "sharegpt", 'records have "conversations"'
    if "instruction" in data and "output" in data:
        return "alpaca", 'records have "instruction" and "output"'
    if "prompt" in data and "completion" in data:
        return "prompt-completion", 'records have "prompt" and "completion"'
    if "text" in data:
        return "text", 'records have "text"'
    expected = "messages | conversations | instruction and output | prompt and completion | text"
    raise WrongRecordError("E201", f"no known format: the record has {_keys(data)}; expected {expected}")


def parse_conversation(record: Record, format: Format) -> Conversation | PlainText:  # noqa: A002
    """The conversation a record holds; a `text` record is a PlainText. Raises RecordError (a DataError)."""
    try:
        return _READERS[format](record.data)
    except WrongRecordError as wrong:
        raise RecordError(record.malformed(wrong.code, wrong.reason, wrong.path)) from None


def _keys(data: Mapping[str, Any]) -> str:
    return ", ".join(json.dumps(key, ensure_ascii=False) for key in list(data)[:8]) or "no fields"


def _has_roles(turns: Any) -> bool:
    try:
        listed = decoded(turns, "conversations", ())
    except WrongRecordError:
        return False
    return isinstance(listed, list) and bool(listed) and isinstance(listed[0], dict) and "role" in listed[0]


def _field(data: Mapping[str, Any], key: str) -> Any:
    value = data.get(key)
    if value is None:
        found = "it is null" if key in data else f"it has {_keys(data)}"
        raise WrongRecordError("E202", f'the record has no "{key}"; {found}', (key,))
    return value


def _messages(data: Mapping[str, Any]) -> Conversation:
    key = "conversations" if data.get("messages") is None and data.get("conversations") else "messages"
    return conversation(turn_list(_field(data, key), (key,)), data.get("tools"), listed_images(data))


_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}


def _sharegpt(data: Mapping[str, Any]) -> Conversation:
    turns = turn_list(_field(data, "conversations"), ("conversations",))
    spelt = [Turn(_openai_fields(turn), turn.number, turn.at) for turn in turns]
    try:
        read = conversation(spelt, data.get("tools"), listed_images(data))
    except WrongRecordError as wrong:
        path = tuple(_SHAREGPT_NAMES.get(step, step) for step in wrong.path)
        raise WrongRecordError(wrong.code, wrong.reason, path) from None
    return _with_system(data, read)


_SHAREGPT_NAMES: Mapping[str | int, str] = {"content": "value", "tool_calls": "value"}
"""What ShareGPT calls the fields of a turn."""


def _with_system(data: Mapping[str, Any], read: Conversation) -> Conversation:
    """With the record's own `system` text first."""
    if not data.get("system"):
        return read
    system = text_of(data["system"], "system", ("system",))
    if not system.strip():
        return read
    return replace(read, messages=(Message("system", system, at=("system",)), *read.messages))


def _openai_fields(turn: Turn) -> Mapping[str, Any]:
    """A ShareGPT turn's fields as an OpenAI message has them; its `train` and `weight` come along."""
    fields = dict(turn.fields)
    if "from" not in fields or "value" not in fields:
        raise turn.wrong("E203", " is no ShareGPT turn; expected an object with from and value")
    speaker, value = fields.pop("from"), fields.pop("value")
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        hint = " (use 'function_call' for calls and 'observation' for results)" if speaker == "function" else ""
        expected = "expected human, gpt, system, function_call or observation"
        raise turn.wrong("E204", f" is from {speaker!r}; {expected}{hint}", "from")
    fields["role"] = _SPEAKERS[speaker]
    if speaker == "function_call":
        fields["tool_calls"] = _function_calls(value, turn)
    else:
        fields["content"] = value
    return fields


def _function_calls(value: Any, turn: Turn) -> list[Any]:
    calls = decoded(value, f"{turn} (function_call)", (*turn.at, "value"))
    if not calls or not isinstance(calls, dict | list):
        raise turn.wrong("E209", " (function_call) holds no name and arguments", "value")
    return calls if isinstance(calls, list) else [calls]


def _alpaca(data: Mapping[str, Any]) -> Conversation:
    question = text_of(_field(data, "instruction"), "instruction", ("instruction",))
    if extra := text_of(data.get("input") or "", "input", ("input",)):
        question = f"{question}\n{extra}" if question else extra
    answer = text_of(_field(data, "output"), "output", ("output",))
    for name, text in (("instruction", question), ("output", answer)):
        if not text.strip():
            raise WrongRecordError("E205", f"{name} is empty", (name,))
    turns = _history(data["history"]) if data.get("history") else []
    turns.append(_plain_turn("user", question, len(turns), ("instruction",)))
    turns.append(_plain_turn("assistant", answer, len(turns), ("output",)))
    return _with_system(data, conversation(turns, data.get("tools"), listed_images(data)))


def _plain_turn(role: str, content: str, before: int, at: KeyPath) -> Turn:
    return Turn({"role": role, "content": content}, before + 1, at)


def _history(value: Any) -> list[Turn]:
    listed = decoded(value, "history", ("history",))
    if not isinstance(listed, list):
        raise WrongRecordError("E203", "history is not an array of [question, answer] pairs", ("history",))
    turns: list[Turn] = []
    for index, pair in enumerate(listed):
        if not isinstance(pair, list) or len(pair) != 2:
            reason = "history is not an array of [question, answer] pairs"
            raise WrongRecordError("E203", reason, ("history", index))
        for side, role in enumerate(("user", "assistant")):
            at = ("history", index, side)
            turns.append(_plain_turn(role, text_of(pair[side], "history", at), len(turns), at))
    return turns


def _prompt_completion(data: Mapping[str, Any]) -> Conversation:
    """Only the completion is learnt: an assistant's turn inside the prompt is context."""
    prompt = _as_turns(_field(data, "prompt"), "user", "prompt")
    completion = _as_turns(_field(data, "completion"), "assistant", "completion")
    numbered = [turn._replace(number=number) for number, turn in enumerate(prompt + completion, 1)]
    whole = conversation(numbered, data.get("tools"), listed_images(data))
    return _with_system(data, replace(whole, messages=tuple(map(_context, whole.messages))))


def _as_turns(value: Any, role: str, what: str) -> list[Turn]:
    if not value or (isinstance(value, str) and not value.strip()):
        raise WrongRecordError("E205", f"{what} is empty", (what,))
    if isinstance(value, str):
        return [_plain_turn(role, value, 0, (what,))]
    if not isinstance(value, list):
        reason = f"{what} is {json_kind(value)}; expected text or an array of messages"
        raise WrongRecordError("E203", reason, (what,))
    return turn_list(value, (what,))


def _context(message: Message) -> Message:
    in_prompt = message.role == "assistant" and message.at[0] == "prompt"
    return replace(message, train=False) if in_prompt else message


def _text(data: Mapping[str, Any]) -> PlainText:
    text = text_of(_field(data, "text"), "text", ("text",))
    if not text.strip():
        raise WrongRecordError("E205", "text is empty", ("text",))
    return PlainText(text)


_READERS: Mapping[Format, Callable[[Mapping[str, Any]], Conversation | PlainText]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
}

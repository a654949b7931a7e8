"""The ways people write conversations down, one function each: Record -> Conversation.

messages            {"messages": [{"role": …, "content": …}, …], "tools": […]}
sharegpt            {"conversations": [{"from": …, "value": …}, …], "tools": "…", "system": "…"}
alpaca              {"instruction": …, "input": …, "output": …, "system": …, "history": [[…, …], …]}, also as
                    query and response, question and answer, content and summary, …: see layout.py
pairs               {"conversation": [{"human": …, "assistant": …}, …]}
prompt-completion   {"prompt": …, "completion": …}      text, or lists of messages
text                {"text": …}                         continued pretraining

A list may be a JSON string of one, as it must be in a table's cell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.chat.messages import Conversation, KeyPath, Message
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.reading.image_parts import listed_images
from finetune.data.reading.layout import Fields, Format, Names, detect_layout, names_under
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.turn import Turn, turn_list
from finetune.data.reading.turns import Declared, conversation
from finetune.errors import DataError


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
    layout = detect_layout(data, {})
    return layout.format, layout.why


def parse_conversation(
    record: Record,
    format: Format,  # noqa: A002
    names: Names | None = None,
) -> Conversation | PlainText:
    """The conversation a record holds; a `text` record is a PlainText. Raises RecordError (a DataError).

    names: the keys of its parts, where `detect_layout` found them; None: as they stand in this record.
    """
    found = names_under(format, record.data) if names is None else names
    try:
        return _READERS[format](Fields(record.data, found))
    except WrongRecordError as wrong:
        raise RecordError(record.malformed(wrong.code, wrong.reason, wrong.path)) from None


def _messages(fields: Fields) -> Conversation:
    unnamed = "messages" not in fields.names and fields.get("messages") is None
    key = "conversations" if unnamed and fields.get("conversations") else "messages"
    turns = turn_list(fields.need(key), (fields.key(key),))
    return _with_system(fields, conversation(turns, _tools(fields), _images(fields)))


def _tools(fields: Fields) -> Declared:
    """The record's own tools: `tools`, or OpenAI's `functions`."""
    if "tools" in fields.names or fields.get("tools"):
        return fields.get("tools"), fields.key("tools")
    return (fields.get("functions"), "functions") if fields.get("functions") else None


def _images(fields: Fields) -> Any:
    renamed = {"images": fields.get("images")} if "images" in fields.names else {}
    return listed_images({**fields.data, **renamed})


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


def _sharegpt(fields: Fields) -> Conversation:
    turns = turn_list(fields.need("conversations"), (fields.key("conversations"),))
    spelt = [Turn(_openai_fields(turn), turn.number, turn.at) for turn in turns]
    try:
        read = conversation(spelt, _tools(fields), _images(fields))
    except WrongRecordError as wrong:
        path = tuple(_SHAREGPT_NAMES.get(step, step) for step in wrong.path)
        raise WrongRecordError(wrong.code, wrong.reason, path) from None
    return _with_system(fields, read)


_SHAREGPT_NAMES: Mapping[str | int, str] = {"content": "value", "tool_calls": "value"}
"""What ShareGPT calls the fields of a turn."""


def _with_system(fields: Fields, read: Conversation) -> Conversation:
    """With the record's own `system` text first."""
    if not fields.get("system"):
        return read
    key = fields.key("system")
    system = text_of(fields.get("system"), key, (key,))
    if not system.strip():
        return read
    return replace(read, messages=(Message("system", system, at=(key,)), *read.messages))


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


def _alpaca(fields: Fields) -> Conversation:
    asked, extra, answered = (fields.key(name) for name in ("instruction", "input", "output"))
    question = text_of(fields.need("instruction"), asked, (asked,))
    if extra != asked and (context := text_of(fields.get("input") or "", extra, (extra,))):
        question = f"{question}\n{context}" if question else context
    answer = text_of(fields.need("output"), answered, (answered,))
    for name, text in ((asked, question), (answered, answer)):
        if not text.strip():
            raise WrongRecordError("E205", f"{name} is empty", (name,))
    turns = _history(fields.get("history"), fields.key("history")) if fields.get("history") else []
    turns.append(_plain_turn("user", question, len(turns), (asked,)))
    turns.append(_plain_turn("assistant", answer, len(turns), (answered,)))
    return _with_system(fields, conversation(turns, _tools(fields), _images(fields)))


def _pairs(fields: Fields) -> Conversation:
    """A list of questions with their answers, each an object; XTuner's first one may hold a system text."""
    listed = fields.data.get("conversation")
    if not isinstance(listed, list) or not listed or not fields.names:
        shape = "[{human, assistant}, …] or [{input, output}, …]"
        raise WrongRecordError("E203", f"conversation is no array of {shape}", ("conversation",))
    turns: list[Turn] = []
    for index, pair in enumerate(listed):
        for name, role in (("instruction", "user"), ("output", "assistant")):
            key = fields.key(name)
            at = ("conversation", index, key)
            value = pair.get(key) if isinstance(pair, dict) else None
            turns.append(_plain_turn(role, text_of(value, f"pair {index + 1}: {key}", at), len(turns), at))
    read = conversation(turns, _tools(fields), _images(fields))
    return _with_system(Fields({**fields.data, "system": listed[0].get("system", fields.get("system"))}), read)


def _plain_turn(role: str, content: str, before: int, at: KeyPath) -> Turn:
    return Turn({"role": role, "content": content}, before + 1, at)


def _history(value: Any, key: str) -> list[Turn]:
    listed = decoded(value, key, (key,))
    if not isinstance(listed, list):
        raise WrongRecordError("E203", f"{key} is not an array of [question, answer] pairs", (key,))
    turns: list[Turn] = []
    for index, pair in enumerate(listed):
        if not isinstance(pair, list) or len(pair) != 2:
            reason = f"{key} is not an array of [question, answer] pairs"
            raise WrongRecordError("E203", reason, (key, index))
        for side, role in enumerate(("user", "assistant")):
            at = (key, index, side)
            turns.append(_plain_turn(role, text_of(pair[side], key, at), len(turns), at))
    return turns


def _prompt_completion(fields: Fields) -> Conversation:
    """Only the completion is learnt: an assistant's turn inside the prompt is context."""
    asked, answered = fields.key("prompt"), fields.key("completion")
    prompt = _as_turns(fields.need("prompt"), "user", asked)
    completion = _as_turns(fields.need("completion"), "assistant", answered)
    numbered = [turn._replace(number=number) for number, turn in enumerate(prompt + completion, 1)]
    whole = conversation(numbered, _tools(fields), _images(fields))
    messages = tuple(_context(message, asked) for message in whole.messages)
    return _with_system(fields, replace(whole, messages=messages))


def _as_turns(value: Any, role: str, what: str) -> list[Turn]:
    if not value or (isinstance(value, str) and not value.strip()):
        raise WrongRecordError("E205", f"{what} is empty", (what,))
    if isinstance(value, str):
        return [_plain_turn(role, value, 0, (what,))]
    if not isinstance(value, list):
        reason = f"{what} is {json_kind(value)}; expected text or an array of messages"
        raise WrongRecordError("E203", reason, (what,))
    return turn_list(value, (what,))


def _context(message: Message, prompt: str) -> Message:
    in_prompt = message.role == "assistant" and message.at[0] == prompt
    return replace(message, train=False) if in_prompt else message


def _text(fields: Fields) -> PlainText:
    key = fields.key("text")
    text = text_of(fields.need("text"), key, (key,))
    if not text.strip():
        raise WrongRecordError("E205", f"{key} is empty", (key,))
    return PlainText(text)


_READERS: Mapping[Format, Callable[[Fields], Conversation | PlainText]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "pairs": _pairs,
    "prompt-completion": _prompt_completion,
    "text": _text,
}

"""The ways people write conversations down, one function each: Record -> Conversation.

messages            {"messages": [{"role": …, "content": …}, …], "tools": […]}
sharegpt            {"conversations": [{"from": …, "value": …}, …], "tools": "…", "system": "…"}
alpaca              {"instruction": …, "input": …, "output": …, "system": …, "history": [[…, …], …]}
prompt-completion   {"prompt": …, "completion": …}      text, or lists of messages
text                {"text": …}                         continued pretraining
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune.chat.messages import Conversation, Message
from finetune.data.fields import WrongRecordError, json_kind, text_of
from finetune.data.records import Malformed, Record
from finetune.data.strict_json import NotJSONError, loads
from finetune.data.turns import conversation
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
        if _names(data["conversations"], "role"):
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
        raise RecordError(Malformed(record.source, record.line, 0, wrong.reason, wrong.code)) from None


def _keys(data: Mapping[str, Any]) -> str:
    return ", ".join(f'"{key}"' for key in list(data)[:8]) or "no fields"


def _names(turns: Any, key: str) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and key in turns[0]


def _field(data: Mapping[str, Any], key: str) -> Any:
    if data.get(key) is None:
        raise WrongRecordError("E202", f'the record has no "{key}"; it has {_keys(data)}')
    return data[key]


def _messages(data: Mapping[str, Any]) -> Conversation:
    turns = data["messages"] if data.get("messages") is not None else data.get("conversations")
    if turns is None:
        _field(data, "messages")
    return conversation(turns, data.get("tools"), data.get("images"))


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
    listed = _field(data, "conversations")
    if not isinstance(listed, list):
        raise WrongRecordError("E203", f"conversations is {json_kind(listed)}; expected an array of turns")
    turns = [_speaker_turn(turn, number) for number, turn in enumerate(listed, 1)]
    return _with_system(data, conversation(turns, data.get("tools"), data.get("images")))


def _with_system(data: Mapping[str, Any], read: Conversation) -> Conversation:
    """With the record's own `system` text first."""
    system = text_of(data.get("system") or "", "system")
    return replace(read, messages=(Message("system", system), *read.messages)) if system.strip() else read


def _speaker_turn(turn: Any, number: int) -> dict[str, Any]:
    """A ShareGPT turn as an OpenAI message; its `train` and `weight` come along."""
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise WrongRecordError(
            "E203", f"message {number} is no ShareGPT turn; expected an object with from and value"
        )
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        hint = " (use 'function_call' for calls and 'observation' for results)" if speaker == "function" else ""
        expected = "expected human, gpt, system, function_call or observation"
        raise WrongRecordError("E204", f"message {number} is from {speaker!r}; {expected}{hint}")
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {**rest, "role": "assistant", "tool_calls": _function_calls(turn["value"], number)}
    return {**rest, "role": _SPEAKERS[speaker], "content": turn["value"]}


def _function_calls(value: Any, number: int) -> list[Any]:
    try:
        calls = loads(value) if isinstance(value, str) else value
    except NotJSONError as problem:
        raise WrongRecordError("E208", f"message {number} (function_call): {problem.reason}") from None
    if not calls or not isinstance(calls, dict | list):
        raise WrongRecordError("E209", f"message {number} (function_call) holds no name and arguments")
    return calls if isinstance(calls, list) else [calls]


def _alpaca(data: Mapping[str, Any]) -> Conversation:
    question = text_of(_field(data, "instruction"), "instruction")
    if extra := text_of(data.get("input") or "", "input"):
        question = f"{question}\n{extra}" if question else extra
    turns: list[dict[str, Any]] = []
    for asked, answered in _history(data.get("history") or []):
        turns += _exchange(asked, answered)
    answer = text_of(_field(data, "output"), "output")
    if not question.strip() or not answer.strip():
        raise WrongRecordError("E205", f"{'output' if question.strip() else 'instruction'} is empty")
    turns += _exchange(question, answer)
    return _with_system(data, conversation(turns, data.get("tools"), data.get("images")))


def _exchange(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _history(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise WrongRecordError("E203", "history is not an array of [question, answer] pairs")
    return [(text_of(asked, "history"), text_of(answered, "history")) for asked, answered in value]


def _prompt_completion(data: Mapping[str, Any]) -> Conversation:
    """Only the completion is learnt: an assistant's turn inside the prompt is context."""
    prompt = _as_turns(_field(data, "prompt"), "user", "prompt")
    completion = _as_turns(_field(data, "completion"), "assistant", "completion")
    whole = conversation(prompt + completion, data.get("tools"), data.get("images"))
    border = len(whole.messages) - len(completion)
    context = tuple(_context(message) for message in whole.messages[:border])
    return _with_system(data, replace(whole, messages=context + whole.messages[border:]))


def _as_turns(value: Any, role: str, what: str) -> list[Any]:
    if not value or (isinstance(value, str) and not value.strip()):
        raise WrongRecordError("E205", f"{what} is empty")
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise WrongRecordError("E203", f"{what} is {json_kind(value)}; expected text or an array of messages")
    return value


def _context(message: Message) -> Message:
    return replace(message, train=False) if message.role == "assistant" else message


def _text(data: Mapping[str, Any]) -> PlainText:
    text = text_of(_field(data, "text"), "text")
    if not text.strip():
        raise WrongRecordError("E205", "text is empty")
    return PlainText(text)


_READERS: Mapping[Format, Callable[[Mapping[str, Any]], Conversation | PlainText]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
}

"""Tool calls written out in an answer's text, in the spelling of one model or another.

    a JSON object       {"name": "get_weather", "arguments": {"city": "Rome"}}
    GLM-4               get_weather⏎{"city": "Rome"}
    Hermes, Qwen        Let me see.<tool_call>⏎{"name": …, "arguments": …}⏎</tool_call>     one or several
    as Python           get_weather({"city": "Rome"})

Strict on purpose: whatever is not wholly such a call stays the text that it is.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from finetune.chat.messages import ToolCall
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.strict_json import NotJSONError, loads
from finetune.data.reading.tools import call_arguments

Read = tuple[str, tuple[ToolCall, ...]]
"""The text before the calls, and the calls."""

_NAMED = re.compile(r"\s*([^\s(){}\[\]<>\"']+)(?:\s*\n\s*(\{.*\})|\((\{.*\})\))\s*", re.DOTALL)
_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def calls_in_text(content: str, declared: Collection[str]) -> Read | None:
    """The calls that `content` ends with and is, apart from a text before `<tool_call>`; None if it is none.

    `declared`: the names of the record's tools. Where there are none, any name is one.
    """
    if "{" not in content:
        return None
    if content.lstrip().startswith("{"):
        call = _object_call(content)
        return None if call is None else ("", (call,))
    found = _blocks(content) if "<tool_call>" in content else _named(content)
    if found is None or not all(_is_declared(call, declared) for call in found[1]):
        return None
    return found


def _is_declared(call: ToolCall, declared: Collection[str]) -> bool:
    return not declared or call.name in declared


def _blocks(content: str) -> Read | None:
    """Hermes' blocks, with nothing but space between and behind them."""
    before, _, _ = content.partition("<tool_call>")
    if _BLOCK.sub("", content[len(before) :]).strip():
        return None
    calls = [_object_call(block) for block in _BLOCK.findall(content)]
    found = tuple(call for call in calls if call is not None)
    return (before.rstrip(), found) if len(found) == len(calls) > 0 else None


def _named(content: str) -> Read | None:
    """A name and the JSON object of its arguments, on the next line or in brackets."""
    found = _NAMED.fullmatch(content)
    arguments = _arguments(found[2] or found[3]) if found else None
    return ("", (ToolCall(found[1], arguments),)) if found and arguments is not None else None


def _object_call(text: str) -> ToolCall | None:
    """The call that `text` is, if it is a JSON object of exactly a name and arguments."""
    value = _json(text)
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        return None
    name, arguments = value["name"], _arguments(value["arguments"])
    known = isinstance(name, str) and name.strip() and arguments is not None
    return ToolCall(name, arguments) if known and arguments is not None else None


def _arguments(value: Any) -> dict[str, Any] | None:
    try:
        return call_arguments(value, "", ())
    except WrongRecordError:
        return None


def _json(text: str) -> Any:
    try:
        return loads(text)
    except NotJSONError:
        return None


_MARKS = re.compile(
    r"<tool_calls?>|</?function_calls?>|<function=|\[TOOL_CALLS\]|<\|tool_call\|>|<\|python_tag\|>"
)


def looks_like_a_call(content: str, declared: Sequence[str]) -> bool:
    """Whether text that no spelling above fits may have been meant as a call."""
    if _MARKS.search(content) or (not declared and content.lstrip().startswith("{") and _object_call(content)):
        return True
    return any(re.search(rf"(?<!\w){re.escape(name)}\s*(?:\(|\n\s*\{{)", content) for name in declared)

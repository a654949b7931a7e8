"""Reading tool calls back out of what a model wrote: one small reader per form, tried on a rendered example.

A reader takes the text of a turn without its stop token, in which control tokens stand as they are and those
spelt in content are marked. It returns the text before the calls and the calls, or None where it sees none.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from finetune.chat.messages import ToolCall

Read = tuple[str, tuple[ToolCall, ...]]
Reader = Callable[[str], Read | None]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)
_PYTHON = {"True": True, "False": False, "None": None}


def read_glm4(text: str) -> Read | None:
    """`name`, a newline and a JSON object; text before a call ends at `<|assistant|>`."""
    before, _, last = text.rpartition("<|assistant|>")
    name, _, arguments = last.partition("\n")
    if not name or len(name.split()) != 1:
        return None
    decoded = _decode(arguments)
    return (before, (ToolCall(name.strip(), decoded),)) if isinstance(decoded, dict) else None


def read_arg_keys(text: str) -> Read | None:
    """GLM-4.5 and later: XML. Strings stand bare, all else is JSON; what reads as JSON is taken as JSON."""
    before, found, _ = text.partition("<tool_call>")
    calls = re.findall(
        r"<tool_call>\s*([^\s<{]+)\s*(?=<arg_key>|</tool_call>)(.*?)</tool_call>", text, re.DOTALL
    )
    if not found or not calls:
        return None
    return before.rstrip("\n"), tuple(ToolCall(name, _arg_keys(body)) for name, body in calls)


def _arg_keys(body: str) -> dict[str, Any]:
    pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", body, re.DOTALL)
    return {key: _bare(value) for key, value in pairs}


def read_parameters(text: str) -> Read | None:
    """Qwen3-Coder: `<function=name>` with `<parameter=key>` blocks, each value on lines of its own.

    Its template prints truth values as Python does.
    """
    before, found, _ = text.partition("<tool_call>")
    calls = re.findall(r"<function=([^>\s]+)>(.*?)</function>", text, re.DOTALL)
    if not found or not calls:
        return None
    return before.rstrip("\n"), tuple(ToolCall(name, _parameters(body)) for name, body in calls)


def _parameters(body: str) -> dict[str, Any]:
    pairs = re.findall(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", body, re.DOTALL)
    return {key: _PYTHON[value] if value in _PYTHON else _bare(value) for key, value in pairs}


def _bare(value: str) -> Any:
    decoded = _decode(value)
    return value if (decoded is None and value != "null") or isinstance(decoded, str) else decoded


def read_json(text: str, *, opening: str) -> Read | None:
    """JSON objects with `name` and `arguments` (or `parameters`), or a list of them, each behind `opening`."""
    if opening not in text:
        return None
    before, *blocks = text.split(opening) if opening else ["", text]
    calls = [_json_calls(block) for block in blocks]
    if not calls or not all(calls):
        return None
    return before.rstrip(), tuple(call for found in calls for call in found)


def _json_calls(block: str) -> list[ToolCall]:
    try:
        value, _ = _JSON.raw_decode(block.lstrip())
    except (ValueError, RecursionError):
        return []
    found = [_json_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in found if call] if all(found) else []


def _json_call(value: Any) -> ToolCall | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _decode(arguments)
    if not isinstance(arguments, Mapping):
        return None
    given = value.get("id")
    return ToolCall(value["name"], arguments, given if isinstance(given, str) else None)


def read_named_json(text: str, *, opening: str, between: str) -> Read | None:
    """A bare name, a separator (a pattern) and a JSON object, each call behind `opening`."""
    before, *blocks = text.split(opening)
    calls = [_named_call(block, between) for block in blocks]
    if not calls or None in calls:
        return None
    return before.rstrip(), tuple(call for call in calls if call)


def _named_call(block: str, between: str) -> ToolCall | None:
    found = re.match(rf"\s*([^\s{{\[<]+?)(?:{between})(?=\{{)", block)
    try:
        arguments, _ = _JSON.raw_decode(block[found.end() :]) if found else (None, 0)
    except (ValueError, RecursionError):
        return None
    return ToolCall(found[1], arguments) if found and isinstance(arguments, dict) else None


def _decode(text: str) -> Any:
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return None


_DEEPSEEK = "<｜tool▁call▁begin｜>"

READERS: Sequence[Reader] = (
    read_arg_keys,
    read_parameters,
    *(
        partial(read_json, opening=opening)
        for opening in ("<tool_call>", "[TOOL_CALLS]", "<|tool_call|>", "<|python_tag|>")
    ),
    partial(read_named_json, opening="[TOOL_CALLS]", between=r"(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?"),
    partial(read_named_json, opening=_DEEPSEEK + "function<｜tool▁sep｜>", between=r"\n```json\n"),
    partial(read_named_json, opening=_DEEPSEEK, between="<｜tool▁sep｜>"),
    partial(read_json, opening=""),
)

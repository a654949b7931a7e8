"""Tools and tool calls, in the shapes that people write them."""

from typing import Any

from finetune.chat.messages import Accepted, KeyPath, Tool, ToolCall
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.reading.strict_json import NotJSONError, loads


def tool_list(value: Any, path: KeyPath) -> tuple[Tool, ...]:
    """The tools in a list, or in a JSON string of one. Raises WrongRecordError, naming the tool."""
    listed = decoded(value, "tools", path)
    if not isinstance(listed, list):
        raise WrongRecordError("E211", f"tools is {json_kind(listed)}; expected an array", path)
    tools = tuple(_tool(tool, index, (*path, index)) for index, tool in enumerate(listed))
    for index, tool in enumerate(tools):
        if any(tool.name == earlier.name for earlier in tools[:index]):
            reason = f"tool {index + 1} has the name of an earlier one, {tool.name!r}"
            raise WrongRecordError("E213", reason, (*path, index))
    return tools


def _tool(value: Any, index: int, path: KeyPath) -> Tool:
    """OpenAI's shape {"type": "function", "function": {…}}, or the function alone."""
    function, path = _function(value, path)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise WrongRecordError("E211", f"tool {index + 1} has no name", (*path, "name"))
    where = f"tool {index + 1}: parameters"
    parameters = decoded(function.get("parameters") or {}, where, (*path, "parameters"))
    if not isinstance(parameters, dict):
        reason = f"{where} are {json_kind(parameters)}; expected a JSON Schema"
        raise WrongRecordError("E211", reason, (*path, "parameters"))
    description = function.get("description") or ""
    return Tool(
        name, text_of(description, f"tool {index + 1}: description", (*path, "description")), parameters
    )


def _function(value: Any, path: KeyPath) -> tuple[Any, KeyPath]:
    """What stands under "function", and where; or `value`, where it has no such key."""
    if isinstance(value, dict) and "function" in value:
        return value["function"], (*path, "function")
    return value, path


def tool_call(call: Any, where: str, path: KeyPath) -> ToolCall:
    """A call in OpenAI's shape or a bare {name, arguments}, these a JSON string or not."""
    if not isinstance(call, dict):
        reason = f"{where}: a tool call is {json_kind(call)}; expected name and arguments"
        raise WrongRecordError("E209", reason, path)
    function, path = _function(call, path)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise WrongRecordError("E209", f"{where}: a tool call has no function name", (*path, "name"))
    identity = call.get("id")
    arguments = call_arguments(
        function.get("arguments"), f"{where}: the call of {name!r}", (*path, "arguments")
    )
    return ToolCall(name, arguments, identity if isinstance(identity, str) else None)


def call_arguments(value: Any, where: str, path: KeyPath) -> dict[str, Any]:
    """The arguments of a call, from an object or a JSON string; none are an empty object."""
    if value is None or value == "":
        return {}
    arguments = value
    if isinstance(value, str):
        try:
            arguments = loads(value)
        except NotJSONError as problem:
            reason = f"{where}: arguments: {problem.reason} (character {problem.position + 1})"
            raise WrongRecordError("E210", reason, path) from None
    if not isinstance(arguments, dict):
        reason = f"{where}: arguments are {json_kind(arguments)}; expected a JSON object"
        raise WrongRecordError("E210", reason, path)
    return arguments


def accepted_calls(value: Any, calls: int, where: str, path: KeyPath) -> tuple[Accepted, ...]:
    """What an evaluation accepts for each of a turn's calls: the function, and lists of values by argument."""
    listed = decoded(value, f"{where}: accepted_calls", path)
    if isinstance(listed, list) and len(listed) == calls and all(map(_is_accepted, listed)):
        return tuple(listed)
    expected = '{"name": {"argument": [values]}} for each call of the message'
    raise WrongRecordError("E209", f"{where}: accepted_calls; expected a list with {expected}", path)


def _is_accepted(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    (arguments,) = value.values()
    return isinstance(arguments, dict) and all(isinstance(options, list) for options in arguments.values())

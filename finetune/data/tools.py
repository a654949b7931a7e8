"""Tools and tool calls, in the shapes that people write them."""

from typing import Any

from finetune.chat.messages import Tool, ToolCall
from finetune.data.fields import WrongRecordError, decoded, json_kind, text_of
from finetune.data.strict_json import NotJSONError, loads


def tool_list(value: Any) -> tuple[Tool, ...]:
    """The tools in a list, or in a JSON string of one. Raises WrongRecordError, naming the tool."""
    listed = decoded(value, "tools")
    if not isinstance(listed, list):
        raise WrongRecordError("E211", f"tools is {json_kind(listed)}; expected an array")
    return tuple(_tool(tool, number) for number, tool in enumerate(listed, 1))


def _tool(value: Any, number: int) -> Tool:
    """OpenAI's shape {"type": "function", "function": {…}}, or the function alone."""
    function = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise WrongRecordError("E211", f"tool {number} has no name")
    parameters = decoded(function.get("parameters") or {}, f"tool {number}: parameters")
    if not isinstance(parameters, dict):
        raise WrongRecordError(
            "E211", f"tool {number}: parameters are {json_kind(parameters)}; expected a JSON Schema"
        )
    description = text_of(function.get("description") or "", f"tool {number}: description")
    return Tool(function["name"], description, parameters)


def tool_call(call: Any, where: str) -> ToolCall:
    """A call in OpenAI's shape or a bare {name, arguments}, these a JSON string or not."""
    if not isinstance(call, dict):
        raise WrongRecordError(
            "E209", f"{where}: a tool call is {json_kind(call)}; expected name and arguments"
        )
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise WrongRecordError("E209", f"{where}: a tool call has no function name")
    name = function["name"]
    identity = call.get("id")
    arguments = call_arguments(function.get("arguments"), f"{where}: the call of {name!r}")
    return ToolCall(name, arguments, identity if isinstance(identity, str) else None)


def call_arguments(value: Any, where: str) -> dict[str, Any]:
    """The arguments of a call, from an object or a JSON string; none are an empty object."""
    if value is None or value == "":
        return {}
    arguments = decoded(value, f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise WrongRecordError("E210", f"{where}: arguments are {json_kind(arguments)}; expected a JSON object")
    return arguments


def call_in_text(content: str) -> tuple[ToolCall, ...]:
    """The call that `content` is, if it is a JSON object of exactly a name and arguments."""
    if not content.lstrip().startswith("{"):
        return ()
    try:
        value = loads(content)
        if set(value) != {"name", "arguments"} or not isinstance(value["name"], str) or not value["name"]:
            return ()
        return (ToolCall(value["name"], call_arguments(value["arguments"], "")),)
    except (NotJSONError, WrongRecordError):
        return ()

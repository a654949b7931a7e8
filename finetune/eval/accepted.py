"""Tool calls against the answers that the Berkeley Function Calling Leaderboard accepts: AST match, for Python.

An answer is accepted by lists of values: {"convert": {"amount": [5, 5.0], "unit": ["m", "metre", ""]}}. A call
is right when each of its arguments is in its list and has the type that the function's schema says, and when
what it leaves out has "" in its list. Beyond that, as the leaderboard has it:

- types are string, integer, float, boolean, array, tuple, dict and any; JSON Schema's number and object, too;
- an integer is taken for a float; a value of another type than the schema's is right when it is of the accepted
  values' type and equal to one of them (they may name a variable);
- strings are compared without letter case, spaces and any of `,./-_*^`, with `'` as `"`: alone, as elements of
  a list, and as values of a dict; deeper than that as they are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.chat.messages import Accepted, ToolCall

OMITTED = ""
"""Among the accepted values of an argument: it may be left out."""

_TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}


def why_wrong(
    calls: Sequence[ToolCall], accepted: Sequence[Accepted], parameters: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """What is wrong with the calls of a turn, in any order; None where they are right.

    parameters: each function's schema of its arguments, by the function's name.
    """
    if len(calls) != len(accepted):
        return f"{len(calls)} calls; expected {len(accepted)}"
    left = list(calls)
    for answer in accepted:
        reasons = [_why_wrong(call, answer, parameters) for call in left]
        if None not in reasons:
            return reasons[0]
        left.pop(reasons.index(None))
    return None


def _why_wrong(call: ToolCall, answer: Accepted, parameters: Mapping[str, Mapping[str, Any]]) -> str | None:
    ((name, values),) = answer.items()
    if call.name != name:
        return f"calls {call.name}; expected {name}"
    schema = parameters.get(name, {})
    known = schema.get("properties") or {key: {} for key in values}
    for key in (
        *schema.get("required", ()),
        *(key for key, options in values.items() if OMITTED not in options),
    ):
        if key not in call.arguments:
            return f"{key} is missing"
    for key, value in call.arguments.items():
        if key not in known or key not in values:
            return f"{key} is no argument of it"
        if not _fits(value, values[key], known[key]):
            return f"{key} is {value!r}; accepted: {', '.join(map(repr, values[key]))}"
    return None


def _fits(value: Any, options: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """True: the value has the schema's type and is accepted, or is equal to an accepted one of its own type."""
    wanted, inner = _types(schema)
    if wanted is float and type(value) is int:
        value = float(value)
    theirs, own = _type_of(options), type(value)
    if own is not wanted:
        return own is theirs and value in options
    if inner is not None and not any(_has_elements(value, option, inner) for option in options):
        return False
    if theirs is not None and theirs is not wanted:
        return value in options
    if wanted is dict:
        return any(_fits_dict(value, option) for option in options if option != OMITTED)
    if inner is dict:
        return any(_fits_dicts(value, option) for option in options)
    if wanted is list:
        return _plain_list(value) in [_plain_list(option) for option in options]
    return _plain(value) in [
        _plain(option) for option in options if wanted is not str or isinstance(option, str)
    ]


def _types(schema: Mapping[str, Any]) -> tuple[type, type | None]:
    """The type of a value, and of its elements where it is a list whose schema says so."""
    wanted = _TYPES.get(str(schema.get("type")), _TYPES["any"])
    items = schema.get("items") or {} if wanted is list else {}
    return wanted, _TYPES.get(str(items.get("type")))


def _type_of(options: Sequence[Any]) -> type | None:
    """The type of the first accepted value; None where there is none but leaving it out."""
    return next((type(option) for option in options if option != OMITTED), None)


def _has_elements(value: Sequence[Any], option: Any, inner: type) -> bool:
    """True: every element is of the type, or of that of the accepted list's elements."""
    if not isinstance(option, list):
        return True
    types = {inner, _type_of(option)}
    return all(type(element) in types for element in value)


def _fits_dicts(value: Sequence[Any], option: Any) -> bool:
    return len(value) == len(option) and all(map(_fits_dict, value, option))


def _fits_dict(value: Any, option: Any) -> bool:
    """As a call's arguments, without types: each key's value is accepted, what is missing may be left out."""
    if not isinstance(value, dict) or not isinstance(option, Mapping) or not value.keys() <= option.keys():
        return False
    if any(key not in value and OMITTED not in options for key, options in option.items()):
        return False
    return all(_plain(one) in [_plain(other) for other in option[key]] for key, one in value.items())


def _plain_list(value: Sequence[Any]) -> list[Any]:
    return [_plain(element) for element in value]


def _plain(value: Any) -> Any:
    """A string without letter case, spaces and signs that dates and names are spelt with; else the value."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')

"""Reading one field of a record, and saying what is wrong with it."""

from typing import Any

from finetune.data.strict_json import NotJSONError, loads

KeyPath = tuple[str | int, ...]
"""Keys and indices that lead from the top of a record to a value in it."""


class WrongRecordError(ValueError):
    """What is wrong with one record; whoever knows its file and line adds them.

    path: the keys and indices that lead from the record's top to the value that is wrong.
    """

    def __init__(self, code: str, reason: str, path: KeyPath = ()) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.path = path


def json_kind(value: Any) -> str:
    """The JSON word for a decoded value's type, with its article."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def text_of(value: Any, what: str) -> str:
    """`value` if it is text. Raises WrongRecordError otherwise."""
    if not isinstance(value, str):
        raise WrongRecordError("E206", f"{what} is {json_kind(value)}; expected text")
    return value


def decoded(value: Any, what: str) -> Any:
    """`value`, read as JSON where it is a string. Raises WrongRecordError if it is none."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except NotJSONError as problem:
        raise WrongRecordError("E208", f"{what}: {problem.reason} (character {problem.position + 1})") from None

"""Reading one field of a record, and saying what is wrong with it."""

from typing import Any, Self

from finetune.chat.messages import KeyPath
from finetune.data.reading.strict_json import NotJSONError, loads


class WrongRecordError(ValueError):
    """What is wrong with one record; whoever knows its file and line adds them.

    path: leads from the record's top to the value that is wrong.
    """

    def __init__(self, code: str, reason: str, path: KeyPath = ()) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.path = path

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, KeyPath]]:
        """It comes out of other processes, too."""
        return type(self), (self.code, self.reason, self.path)


def json_kind(value: Any) -> str:
    """The JSON word for a decoded value's type, with its article."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def text_of(value: Any, what: str, path: KeyPath) -> str:
    """`value` if it is text. Raises WrongRecordError otherwise."""
    if not isinstance(value, str):
        raise WrongRecordError("E206", f"{what} is {json_kind(value)}; expected text", path)
    return value


def decoded(value: Any, what: str, path: KeyPath) -> Any:
    """`value`, read as JSON where it is a string. Raises WrongRecordError if it is none."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except NotJSONError as problem:
        reason = f"{what}: {problem.reason} (character {problem.position + 1})"
        raise WrongRecordError("E208", reason, path) from None

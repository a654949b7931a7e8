"""One entry of a record's list of turns, before it is a message."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune.chat.messages import KeyPath, Role
from finetune.data.reading.fields import WrongRecordError, decoded, json_kind

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}


class Turn(NamedTuple):
    """One entry of a record's list of turns, its number from 1, and where in the record it stands."""

    fields: Mapping[str, Any]
    number: int
    at: KeyPath

    def __str__(self) -> str:
        return f"message {self.number}"

    def wrong(self, code: str, reason: str, *inside: str | int) -> WrongRecordError:
        """What is wrong with the turn, or with what stands `inside` it."""
        return WrongRecordError(code, f"{self}{reason}", (*self.at, *inside))

    def role(self) -> Role:
        """Who speaks. Raises WrongRecordError."""
        role = self.role_or_none()
        if role is not None:
            return role
        if "role" not in self.fields:
            hint = "; this looks like ShareGPT: name the list `conversations`" if "from" in self.fields else ""
            raise self.wrong("E204", f" has no role{hint}")
        found = self.fields["role"]
        raise self.wrong("E204", f" has role {found!r}; expected system, user, assistant or tool", "role")

    def role_or_none(self) -> Role | None:
        """Who speaks, where that is a role that we know."""
        role = self.fields.get("role")
        return _ROLES.get(role) if isinstance(role, str) else None


def turn_list(value: Any, path: KeyPath) -> list[Turn]:
    """The turns in a list, or in a JSON string of one. Raises WrongRecordError."""
    listed = decoded(value, "the list of messages", path) if value != "" else []
    if not isinstance(listed, list):
        reason = f"the messages are {json_kind(listed)}; expected an array of messages"
        raise WrongRecordError("E203", reason, path)
    if not listed:
        raise WrongRecordError("E203", "the list of messages is empty", path)
    return [_turn(fields, number, (*path, number - 1)) for number, fields in enumerate(listed, 1)]


def _turn(fields: Any, number: int, at: KeyPath) -> Turn:
    if not isinstance(fields, dict):
        reason = f"message {number} is {json_kind(fields)}; expected an object with a role"
        raise WrongRecordError("E203", reason, at)
    if None in fields.values():  # null means the same as no field: in OpenAI's format, and after Arrow
        fields = {key: value for key, value in fields.items() if value is not None}
    return Turn(fields, number, at)

"""A conversation in one vocabulary: OpenAI's roles, tools and tool calls, whatever the file it came from.

Everything here is frozen and checked at birth, so the rooms below never ask again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

KeyPath = tuple[str | int, ...]
"""Keys and indices that lead from the top of a record to a value in it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the assistant calls; `arguments` is the decoded JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tool call has no function name")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the assistant may call; `parameters` is its JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tool has no name")


@dataclass(frozen=True, slots=True)
class Image:
    """Where a picture lies: a path, or the bytes of a data: URL."""

    path: str | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is the assistant's thoughts, apart from `content`.

    `train` False: an assistant turn that is context only and is never learnt. `at`: where in its record the
    turn stands, for messages about it.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    images: tuple[Image, ...] = ()
    train: bool = True
    at: KeyPath = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r}; expected one of {', '.join(ROLES)}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls on a {self.role} message; only the assistant calls tools")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, and the tools the assistant may call in them."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("the conversation has no messages")

    def before(self, turn: int) -> "Conversation":
        """The conversation as it stands when message `turn` has yet to be written."""
        return Conversation(self.messages[:turn], self.tools)

    def assistant_turns(self) -> Sequence[int]:
        """The positions of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message.role == "assistant"]

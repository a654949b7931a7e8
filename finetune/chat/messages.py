"""A conversation in one vocabulary: OpenAI's roles, tools and tool calls, whatever the file it came from.

Everything here is frozen and checked at birth, so the rooms below never ask again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

KeyPath = tuple[str | int, ...]
"""Keys and indices that lead from the top of a record to a value in it."""


Accepted = Mapping[str, Mapping[str, Any]]
"""Answers accepted in the place of one call: the function's name, and for each argument a list of values."""


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
    """A picture in a message: where it lies (a path, or an address), or the bytes of its file.

    `offset`: before which character of the message's content it stands. `at`: where in its record it stands.
    """

    path: str | None = None
    data: bytes | None = field(default=None, repr=False)
    offset: int = 0
    at: KeyPath = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `reasoning` is the assistant's thoughts, apart from `content`. `images`: in their order.

    `train` False: an assistant turn that is context only and is never learnt. `weight`: how much each token of
    an assistant turn counts in the loss, above 0. `accepted`: what an evaluation takes for right in the place
    of `tool_calls`, as eval.accepted has it. `at`: where in its record the turn stands, for messages about it.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    images: tuple[Image, ...] = ()
    train: bool = True
    weight: float = 1.0
    at: KeyPath = field(default=(), compare=False, repr=False)
    accepted: tuple[Accepted, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r}; expected one of {', '.join(ROLES)}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls on a {self.role} message; only the assistant calls tools")

    def parts(self) -> Iterator[str | Image]:
        """The content as it is read: text that is not empty, and the images between."""
        position = 0
        for image in self.images:
            if text := self.content[position : image.offset]:
                yield text
            yield image
            position = image.offset
        if text := self.content[position:]:
            yield text

    def with_content(self, change: Callable[[str], str]) -> "Message":
        """The message with each piece of its text changed; images stay between the same pieces."""
        text, images = "", []
        for part in self.parts():
            if isinstance(part, Image):
                images.append(replace(part, offset=len(text)))
            else:
                text += change(part)
        return replace(self, content=text, images=tuple(images))


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

    @property
    def images(self) -> tuple[Image, ...]:
        """All of them, in the order in which they are read."""
        return tuple(image for message in self.messages for image in message.images)

    def assistant_turns(self) -> Sequence[int]:
        """The positions of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message.role == "assistant"]

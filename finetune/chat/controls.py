"""Control tokens spelt inside what people write: marked before rendering, so that they never become real ones.

A mark is plain ASCII: it passes through a template's `trim`, `tojson` and string tests unchanged, and a
template that looks for `</think>` or `<|user|>` in content does not find the ones a user typed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from finetune.chat.messages import Conversation, Message, Tool, ToolCall

_MARK = "@@ctl:"


class Controls:
    """Marks `tokens` in text (`guard`), and takes the marks off (`reveal`). A lookalike is marked too."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = sorted(set(tokens) - {""}, key=lambda token: (-len(token), token))
        spelt = [_MARK, *self.tokens]
        self._marks = {token: f"{_MARK}{n}@@" for n, token in enumerate(spelt)}
        self._meant = {mark: token for token, mark in self._marks.items()}
        self._token = re.compile("|".join(map(re.escape, self.tokens)) or "(?!)")
        self._spelt = re.compile("|".join(re.escape(token) for token in [*self.tokens, _MARK]))
        self._marked = re.compile(f"({_MARK}[0-9]+@@)")

    def guard(self, text: str) -> str:
        return self._spelt.sub(lambda found: self._marks[found[0]], text)

    def reveal(self, text: str) -> str:
        return self._marked.sub(lambda found: self._meant[found[0]], text) if _MARK in text else text

    def marks(self, text: str) -> bool:
        """Whether something in rendered text was marked."""
        return _MARK in text

    def pieces(self, text: str) -> list[str]:
        """[text, control token spelt in content, text, …]: what stands at odd places is plain text."""
        if _MARK not in text:
            return [text]
        pieces = self._marked.split(text)
        return [self._meant[piece] if place % 2 else piece for place, piece in enumerate(pieces)]

    def first(self, text: str) -> str | None:
        """The first control token in rendered text."""
        found = self._token.search(text)
        return found[0] if found else None

    def last(self, text: str) -> str | None:
        """The control token that rendered text ends with."""
        return next((token for token in self.tokens if text.endswith(token)), None)

    def last_in(self, text: str) -> str | None:
        """The last control token in rendered text."""
        found = self._token.findall(text)
        return found[-1] if found else None

    def behind_last(self, text: str) -> tuple[str | None, str]:
        """The last control token in rendered text, and what stands behind it."""
        found = list(self._token.finditer(text))
        return (found[-1][0], text[found[-1].end() :]) if found else (None, text)

    def all_in(self, text: str) -> list[str]:
        """The control tokens in text, in order."""
        return self._token.findall(text)

    def guard_data(self, value: Any) -> Any:
        return _map_strings(self.guard, value)

    def reveal_data(self, value: Any) -> Any:
        return _map_strings(self.reveal, value)

    def guard_conversation(self, conversation: Conversation) -> Conversation:
        messages = tuple(self._guard_message(message) for message in conversation.messages)
        tools = tuple(
            Tool(self.guard(tool.name), self.guard(tool.description), self.guard_data(tool.parameters))
            for tool in conversation.tools
        )
        return Conversation(messages, tools)

    def _guard_message(self, message: Message) -> Message:
        if not (message.tool_calls or message.reasoning or self._spelt.search(message.content)):
            return message
        calls = tuple(
            ToolCall(self.guard(call.name), self.guard_data(call.arguments), call.id)
            for call in message.tool_calls
        )
        reasoning = self.guard(message.reasoning) if message.reasoning else None
        return replace(message.with_content(self.guard), tool_calls=calls, reasoning=reasoning)


def _map_strings(change: Any, value: Any) -> Any:
    """`value` with every string in it changed, keys too: templates print argument names."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(change, key): _map_strings(change, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(change, item) for item in value]
    return value

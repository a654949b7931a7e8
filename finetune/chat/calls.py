"""Reading tool calls back out of what a model wrote: three forms, filled in for a template by `call_format.py`.

    JsonCalls    {"name": "f", "arguments": {"a": 1}}   a JSON value holds name and arguments, or a list does
    NamedCalls   f[ARGS]{"a": 1}                        a bare name, then the arguments as a JSON object
    KeyedCalls   f(a=1)   <f><a>1</a></f>               a bare name, then every argument by itself

A reader takes the text of a turn without its stop token, in which control tokens stand as they are and those
spelt in content are marked. It returns the text before the calls and all the calls, or None: no reader
returns a part of them, or lets text behind them go.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune.chat.literals import JSON, Literals
from finetune.chat.messages import ToolCall

Read = tuple[str, tuple[ToolCall, ...]]
Pattern = re.Pattern[str]
Path = tuple[str | int, ...]
"""Steps into a JSON value: a key; 0, the only key of an object; 1, the value of that key."""


class CallForm(Protocol):
    """How the calls of a turn are spelt, from the first on."""

    def calls(self, text: str, opening: re.Match[str]) -> Iterator[ToolCall]:
        """All calls up to the end of `text`. Raises ValueError or RecursionError for any other text."""
        ...


@dataclass(frozen=True, slots=True)
class CallReader:
    """Where calls start in a turn, and their form.

    `opening`: what stands before the first call of a turn without text. `after_text`: the same behind text;
    None: a text before calls is not read. `lead`: what the template puts before that text. `several`: a turn
    may have more than one call.
    """

    form: CallForm
    opening: Pattern
    after_text: Pattern | None
    lead: Pattern
    several: bool

    def __call__(self, text: str) -> Read | None:
        return next((read for place in self._places(text) if (read := self._read(text, *place))), None)

    def _read(self, text: str, before: str, opening: re.Match[str]) -> Read | None:
        try:
            calls = tuple(self.form.calls(text, opening))
        except (ValueError, RecursionError):
            return None
        return (before, calls) if len(calls) == 1 or (calls and self.several) else None

    def _places(self, text: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Where calls may start: the text before them, and what opens the first.

        A turn may begin with what only looks like a call ("```json", a line break and a brace), and have its
        calls behind that text.
        """
        if found := self.opening.match(text):
            yield "", found
        if self.after_text is not None and (found := self.after_text.search(text)):
            yield self.lead.sub("", text[: found.start()], count=1).rstrip(), found


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """`name`, `arguments` and `id` are paths in the object of one call."""

    between: Pattern | None
    end: Pattern
    name: Path
    arguments: Path
    id: Path | None

    def calls(self, text: str, opening: re.Match[str]) -> Iterator[ToolCall]:
        at = opening.end()
        while True:
            value, at = JSON.raw_decode(text, at)
            yield from (self._call(item) for item in (value if isinstance(value, list) else [value]))
            if self.end.fullmatch(text, at):
                return
            at = _next(self.between, text, at).end()

    def _call(self, value: Any) -> ToolCall:
        name, given = at_path(value, self.name), at_path(value, self.id) if self.id else None
        arguments = at_path(value, self.arguments)
        if isinstance(arguments, str):
            arguments = JSON.decode(arguments)
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise ValueError("no call")
        return ToolCall(name, arguments, given if isinstance(given, str) else None)


def at_path(value: Any, path: Path) -> Any:
    """What stands at `path` in a JSON value; None where nothing does."""
    for step in path:
        if not isinstance(value, Mapping):
            return None
        if isinstance(step, str):
            value = value.get(step)
        else:
            value = next(iter(value.items()))[step] if len(value) == 1 else None
    return value


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """`named`: a name and all up to the arguments. `between` ends where the next name starts."""

    named: Pattern
    between: Pattern | None
    end: Pattern

    def calls(self, text: str, opening: re.Match[str]) -> Iterator[ToolCall]:
        while True:
            name = _next(self.named, text, opening.end())
            arguments, at = JSON.raw_decode(text, name.end())
            if not isinstance(arguments, Mapping):
                raise ValueError("arguments that are no object")
            yield ToolCall(name["name"], arguments, _given_id(opening, name))
            if self.end.fullmatch(text, at):
                return
            opening = _next(self.between, text, at)


@dataclass(frozen=True, slots=True)
class ValueForm:
    """How values of one kind stand behind their key.

    `key`: a key and all up to the value. `close`: what may follow the value, by the group that matches:
    `next_key`, `next_call` (it ends where the next name starts) or `end`, the end of the text.
    `is_text`: all up to there is a text, or the value that `literals` reads it as; `only_text`: it stays text,
    whatever it reads as. Without `is_text` the value is what `literals` reads at its start.
    """

    key: Pattern
    close: Pattern
    is_text: bool
    only_text: bool
    literals: Literals

    def value(self, text: str, at: int) -> tuple[Any, re.Match[str]]:
        if not self.is_text:
            value, at = self.literals.scan(text, at)
            return value, _next(self.close, text, at)
        if (closing := self.close.search(text, at)) is None:
            raise ValueError("a value without an end")
        said = text[at : closing.start()]
        return said if self.only_text else self._meant(said), closing

    def _meant(self, said: str) -> Any:
        try:
            value = self.literals.whole(said)
        except ValueError:
            return said
        return said if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class KeyedCalls:
    """`named`: a name and all up to its first key (group `keys`), or, where it has no arguments, up to the next
    name (`next_call`) or the end (`end`).
    """

    named: Pattern
    values: Sequence[ValueForm]

    def calls(self, text: str, opening: re.Match[str]) -> Iterator[ToolCall]:
        following: re.Match[str] | None = opening
        while following is not None:
            name = _next(self.named, text, following.end())
            given = _given_id(following, name)
            arguments: dict[str, Any] = {}
            following = name
            while following.lastgroup in ("keys", "next_key"):
                key, arguments_value, following = self._argument(text, following.end())
                if key in arguments:
                    raise ValueError("a key given twice")
                arguments[key] = arguments_value
            yield ToolCall(name["name"], arguments, given)
            following = following if following.lastgroup == "next_call" else None

    def _argument(self, text: str, at: int) -> tuple[str, Any, re.Match[str]]:
        """The key at `at`, its value, and what closes it, in the form that has the shortest key there."""
        found = [(form, key) for form in self.values if (key := form.key.match(text, at))]
        if not found:
            raise ValueError("no key")
        form, key = min(found, key=lambda pair: (pair[1].end("key"), -pair[1].end()))
        value, closing = form.value(text, key.end())
        return key["key"], value, closing


def _next(pattern: Pattern | None, text: str, at: int) -> re.Match[str]:
    if pattern is None or not (found := pattern.match(text, at)):
        raise ValueError("not what stands there")
    return found


def _given_id(*matches: re.Match[str]) -> str | None:
    groups = (match.groupdict() for match in matches)
    return next((group["id"] for group in groups if group.get("id")), None)

"""Values as chat templates print them: JSON, Python's literals, and strings in a family's own quotes."""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?(?![\w.])")
_WORD = re.compile(r"[A-Za-z]+")
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_BARE_KEY = re.compile(r"[^\s:,{}\[\]\"']+")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "'": "'", '"': '"', "\\": "\\"}
_JSON_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_PYTHON_WORDS: dict[str, Any] = _JSON_WORDS | {"True": True, "False": False, "None": None}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


JSON = json.JSONDecoder(parse_constant=_refuse_constant)
"""`NaN` and `Infinity` are refused with ValueError. A nesting that is too deep raises RecursionError."""


@dataclass(frozen=True, slots=True)
class Literals:
    """One spelling of values.

    `python`: `True`, `None` and single quotes are understood too. `quotes`: what opens and closes a string of
    the family's own, in which nothing is escaped; keys of objects may then stand bare.
    """

    python: bool = False
    quotes: tuple[str, str] | None = None

    def whole(self, text: str) -> Any:
        """The value that is all of `text`. Raises ValueError or RecursionError."""
        value, end = self.scan(text, 0)
        if text[end:].strip():
            raise ValueError("something follows the value")
        return value

    def scan(self, text: str, at: int) -> tuple[Any, int]:
        """The value that starts at `at`, and where it ends. Raises ValueError or RecursionError."""
        at = _skip(text, at)
        opening = text[at : at + 1]
        if self.quotes and text.startswith(self.quotes[0], at):
            return self._quoted(text, at)
        if opening == "[":
            return self._list(text, at + 1)
        if opening == "{":
            return self._object(text, at + 1)
        if opening in ('"', "'"):
            return self._string(text, at)
        return self._number(text, at) if opening.isdigit() or opening == "-" else self._word(text, at)

    def _quoted(self, text: str, at: int) -> tuple[str, int]:
        opening, closing = self.quotes or ("", "")
        start = at + len(opening)
        end = text.index(closing, start)
        return text[start:end], end + len(closing)

    def _string(self, text: str, at: int) -> tuple[str, int]:
        found = _DOUBLE.match(text, at)
        if found:
            return self._unescaped(found[0]), found.end()
        found = _SINGLE.match(text, at) if self.python else None
        if not found:
            raise ValueError("no string")
        return _python_text(found[1]), found.end()

    def _unescaped(self, quoted: str) -> str:
        """JSON's escapes; Python's where JSON does not know them."""
        try:
            value = JSON.decode(quoted)
        except ValueError:
            if not self.python:
                raise
            return _python_text(quoted[1:-1])
        return str(value)

    def _list(self, text: str, at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        while not text.startswith("]", at := _skip(text, at)):
            at = _after(",", text, at) if items else at
            item, at = self.scan(text, at)
            items.append(item)
        return items, at + 1

    def _object(self, text: str, at: int) -> tuple[dict[str, Any], int]:
        items: dict[str, Any] = {}
        while not text.startswith("}", at := _skip(text, at)):
            at = _skip(text, _after(",", text, at)) if items else at
            key, at = self._key(text, at)
            items[key], at = self.scan(text, _after(":", text, at))
        return items, at + 1

    def _key(self, text: str, at: int) -> tuple[str, int]:
        if self.quotes and (found := _BARE_KEY.match(text, at)) and not text.startswith(self.quotes[0], at):
            return found[0], found.end()
        key, at = self.scan(text, at)
        if not isinstance(key, str):
            raise ValueError("a key that is no text")
        return key, at

    def _number(self, text: str, at: int) -> tuple[Any, int]:
        found = _NUMBER.match(text, at)
        if not found:
            raise ValueError("no number")
        return (float if found[1] or found[2] else int)(found[0]), found.end()

    def _word(self, text: str, at: int) -> tuple[Any, int]:
        found = _WORD.match(text, at)
        words = _PYTHON_WORDS if self.python else _JSON_WORDS
        if not found or found[0] not in words:
            raise ValueError("no value")
        return words[found[0]], found.end()


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _after(mark: str, text: str, at: int) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise ValueError(f"no {mark!r}")
    return at + len(mark)


def _python_text(inside: str) -> str:
    return _ESCAPE.sub(lambda found: _python_character(found[1]), inside)


def _python_character(escape: str) -> str:
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    if escape not in _ESCAPES:
        raise ValueError(f"no escape: {escape!r}")
    return _ESCAPES[escape]

"""JSON as RFC 8259 has it, without Python's leniency, and with the position of what is wrong.

Python's `json` keeps the last of two equal keys, reads NaN and Infinity, turns 1e999 into infinity and lets
half a surrogate pair through. Each would change, or crash on, what the model learns.
"""

import json
import re
from collections.abc import Iterator
from math import isinf
from typing import Any, NoReturn

_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_CONSTANT = re.compile(r"NaN|-?Infinity")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_AFTER_KEY = re.compile(r"[ \t\r\n]*:")


DEEPEST = 100
"""Levels of a value. No data has more, and what handles it later (templates, schemas) breaks on a thousand."""


class NotJSONError(ValueError):
    """What is wrong with a text as JSON, and the offset in characters where."""

    def __init__(self, code: str, reason: str, position: int) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.position = position


class _RefusedError(Exception):
    """Valid for Python's parser, not for us; where it stands is found afterwards."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError
    return found


def _refuse(constant: str) -> NoReturn:
    raise _RefusedError


def _finite(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise _RefusedError
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)


def skip_blank(text: str, position: int) -> int:
    """The offset of the first character at or after `position` that is not JSON white space."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def decode_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at offset `start` and the offset behind it. Raises NotJSONError."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _syntax_error(error) from None
    except _RefusedError:
        raise next(_offences(text, start), NotJSONError("E104", "not valid JSON", start)) from None
    except RecursionError:
        raise NotJSONError("E111", "nested too deeply", start) from None
    except ValueError:
        raise NotJSONError("E109", "a number of more than 4,300 digits", start) from None
    if _is_too_deep(value, text.count("{", start, end) + text.count("[", start, end)):
        raise NotJSONError("E111", f"nested more than {DEEPEST} levels deep", start)
    if _may_hold_half_pair(text, start, end):
        for offence in _offences(text, start, end):
            raise offence
    return value, end


def _is_too_deep(value: Any, brackets: int) -> bool:
    """Whether containers lie more than DEEPEST levels inside one another; `brackets`: how many there may be."""
    if brackets <= DEEPEST:
        return False
    level = [value]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level if item)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
    return bool(level)


def _may_hold_half_pair(text: str, start: int, end: int) -> bool:
    """Whether to look closer. Two cheap looks first, for nearly every text passes them."""
    if text.find("\\u", start, end) >= 0 and _ESCAPED_HALF.search(text, start, end):
        return True
    if text.isascii():
        return False
    try:
        text[start:end].encode()
    except UnicodeEncodeError:
        return True
    return False


def loads(text: str) -> Any:
    """The one JSON value that `text` is. Raises NotJSONError."""
    value, end = decode_at(text, skip_blank(text, 0))
    end = skip_blank(text, end)
    if end < len(text):
        raise NotJSONError("E106", "text after the end of the JSON value", end)
    return value


def end_of_value(text: str, start: int) -> int | None:
    """The offset behind the brackets that open at `start`, whatever lies between; None if they never close."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
        if depth <= 0:
            return token.end() if token[0] in ("}", "]") and depth == 0 else None
    return None


def _syntax_error(error: json.JSONDecodeError) -> NotJSONError:
    at_end = skip_blank(error.doc, error.pos) == len(error.doc)
    if at_end or error.msg.startswith("Unterminated"):
        return NotJSONError("E105", "not valid JSON: cut off in the middle of a record", error.pos)
    return NotJSONError("E104", _reason(error), error.pos)


def _reason(error: json.JSONDecodeError) -> str:
    rest = error.doc[error.pos : error.pos + 1]
    if rest == "'":
        return "not valid JSON: names and strings stand in double quotes, not single ones"
    if error.msg.startswith("Invalid control character"):
        what = "a line break" if rest in "\r\n" else f"the control character U+{ord(rest):04X}"
        return f"not valid JSON: {what} inside a string; write it as an escape like \\n"
    return f"not valid JSON: {error.msg[0].lower()}{error.msg[1:]}"


def _offences(text: str, start: int, end: int | None = None) -> Iterator[NotJSONError]:
    """What Python's parser lets through and we do not, in order, from the value at `start` on."""
    seen: list[set[str] | None] = []
    for token in _TOKEN.finditer(text, start, len(text) if end is None else end):
        word = token[0]
        if word in ("{", "["):
            seen.append(set() if word == "{" else None)
        elif word in ("}", "]"):
            seen.pop()
        elif word[0] == '"':
            keys = seen[-1] if seen and _AFTER_KEY.match(text, token.end()) else None
            yield from _string_offences(word, token.start(), keys)
        elif constant := _CONSTANT.match(word):
            yield NotJSONError("E108", f"{constant[0]} is not JSON; leave the field out", token.start())
        elif (number := _NUMBER.match(word)) and isinf(float(number[0])):
            yield NotJSONError("E109", f"the number {number[0]} is too large", token.start())


def _string_offences(literal: str, position: int, keys: set[str] | None) -> Iterator[NotJSONError]:
    """`keys`: those seen so far in this object if the string is a key, else None."""
    for half in re.finditer("[\udc80-\udcff]", literal):
        yield NotJSONError("E101", "bytes that are not UTF-8; save the file as UTF-8", position + half.start())
    string = json.loads(literal, strict=False)
    if not string.isascii() and re.search("[\ud800-\udfff]", string):
        yield NotJSONError("E110", "half of a surrogate pair, which is no character", position)
    if keys is not None and string in keys:
        yield NotJSONError("E107", f"the key {literal} stands twice in one object", position)
    if keys is not None:
        keys.add(string)

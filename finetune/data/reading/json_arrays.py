"""The values of a JSON text that holds many: an array, or objects end to end. Mistakes do not end it."""

import re
from collections.abc import Iterator
from typing import Any

from finetune.data.reading.strict_json import NotJSONError, decode_at, end_of_value, skip_blank

_CUT_OFF = ("E105", "the file ends before its array's ]: it is cut off")
_DEEPEST = 200  # characters of indentation before an element; a bound, so that one long line costs no more
_NO_COMMA = ("E113", "a comma is missing here")


def concatenated(text: str, position: int) -> Iterator[tuple[int, Any]]:
    while position < len(text):
        value, end = _value_or_problem(text, position)
        yield position, value
        if end is None:
            return
        position = skip_blank(text, end)


def elements(text: str, position: int) -> Iterator[tuple[int, Any]]:
    """(offset, value or NotJSONError) of each element, from behind the opening bracket to the end."""
    position = skip_blank(text, position)
    comma = False
    while not text.startswith("]", position):
        value, end = _value_or_problem(text, position)
        yield position, value
        if end is None:
            return
        position = skip_blank(text, end)
        comma = text.startswith(",", position)
        if comma:
            position = skip_blank(text, position + 1)
        elif not text.startswith("]", position):
            at_end = position >= len(text)
            code, reason = _CUT_OFF if at_end else _NO_COMMA
            yield position, NotJSONError(code, reason, position)
            if not text.startswith("{", position):
                return
    if comma:
        yield position, NotJSONError("E113", "a comma before the closing ]", position)
    position = skip_blank(text, position + 1)
    if position < len(text):
        yield position, NotJSONError("E106", "text after the closing ] of the array", position)


def _value_or_problem(text: str, position: int) -> tuple[Any, int | None]:
    """The value at `position`, or what is wrong with it, and where reading can go on (None: nowhere)."""
    try:
        return decode_at(text, position)
    except NotJSONError as problem:
        end = _next_alike(text, position, problem.position) or end_of_value(text, position)
        if end is not None:
            return problem, end
        reason = f"{problem.reason}; nothing behind this place could be read"
        return NotJSONError(problem.code, reason, problem.position), None


def _next_alike(text: str, position: int, wrong: int) -> int | None:
    """Where the element of `position` ends if it was pretty-printed: before the next line that opens alike."""
    line = text.rfind("\n", max(0, position - _DEEPEST), position)
    opening = text[line : position + 1]
    if line < 0 or not re.fullmatch(r"\n[ \t]*\{", opening):
        return None
    found = text.find(opening, max(position, wrong))
    return None if found < 0 else position + len(text[position:found].rstrip().removesuffix(","))

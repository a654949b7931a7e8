"""Where a value stands in the JSON text it was read from. Asked only where there is a mistake."""

from itertools import count

from finetune.chat.messages import KeyPath
from finetune.data.reading.strict_json import decode_at, skip_blank


def offset_of(text: str, start: int, path: KeyPath) -> int:
    """The offset of the value that `path` leads to from the value at `start`.

    Where the path leads on into what is not there (a missing key, the inside of a string) it is the innermost
    value that is. `text` must be JSON that was read from `start` before.
    """
    offset = skip_blank(text, start)
    for step in path:
        inner = _child(text, offset, step)
        if inner is None:
            break
        offset = inner
    return offset


def _child(text: str, start: int, step: str | int) -> int | None:
    """The offset of one member of the object, or element of the array, at `start`."""
    brackets = text[start : start + 1]
    if brackets not in ("{", "["):
        return None
    position = skip_blank(text, start + 1)
    for index in count():
        if text[position] in "]}":
            return None
        key: str | int = index
        if brackets == "{":
            key, position = decode_at(text, position)
            position = skip_blank(text, skip_blank(text, position) + len(":"))
        if key == step:
            return position
        position = skip_blank(text, decode_at(text, position)[1])
        if text[position] == ",":
            position = skip_blank(text, position + 1)
    return None


def line_and_column(text: str, offset: int, start: int = 0, line: int = 1, column: int = 1) -> tuple[int, int]:
    """Line and column, both from 1, of a character, where the one at `start` has `line` and `column`."""
    breaks = text.count("\n", start, offset)
    if breaks == 0:
        return line, column + offset - start
    return line + breaks, offset - text.rfind("\n", start, offset)

"""Calls whose every part is known, rendered to learn a template's spelling and to try what was learnt."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from finetune.chat.calls import CallReader
from finetune.chat.losses import unwritten
from finetune.chat.messages import Message, ToolCall

Write = Callable[[Message], str | None]
"""An assistant's message to the text that a model writes, thoughts and stop token off; None: refused."""

NAMES = ("qztoolq", "qzagainq", "qzthirdq")
IDS = ("qzcall001", "qzcall002", "qzcall003")
KEY, MORE, VALUE, BEFORE = "qzkeyq", "qzmoreq", "Qzvalueq", "Qzbeforeq"
ARGUMENTS = {KEY: VALUE}
NAME_MARK = "\1"
"""Stands for a name that a call repeats."""

_TEXTS = (
    "two words",
    'He said "no", it\'s\n\tnot\\here',
    "né 你好 🍎",
    "<b>x</b> & y",
    "a, b=1) c",
    "",
)
_VALUES: Sequence[Any] = (
    *_TEXTS,
    7,
    -3,
    0.5,
    True,
    False,
    None,
    [],
    [1, 2.5, "x y"],
    {},
    {"c": "d", "e": [True, None, {"f": 'g\'s "h"'}]},
)


class Probes:
    """Turns of calls whose names, ids, keys and values are known.

    `one`: a turn of one call. `count`: how many calls a turn may have, as far as was tried. `saying`: a turn
    of text and a call; None: the text is not printed, or behind the call.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self.one = self.calls(ARGUMENTS) or ""
        self.count = next((count for count in (3, 2) if self._holds(count)), 1)
        text = self.calls(ARGUMENTS, content=BEFORE) or ""
        self.saying = text if 0 <= text.find(BEFORE) < text.find(NAMES[0]) else None

    def _holds(self, count: int) -> bool:
        text = self.calls(*[ARGUMENTS] * count) or ""
        return all(name in text for name in NAMES[:count])

    def several(self, arguments: Mapping[str, Any]) -> list[str]:
        """What stands behind each name of as many equal calls as a turn may have."""
        return self.after_names(*[arguments] * self.count) or []

    def calls(self, *arguments: Mapping[str, Any], content: str = "") -> str | None:
        named = zip(NAMES, arguments, IDS, strict=False)
        return self._write(Message("assistant", content, tuple(ToolCall(*parts) for parts in named)))

    def after_names(self, *arguments: Mapping[str, Any]) -> list[str] | None:
        """What stands behind each name up to the next; a name that comes again is a mark."""
        text = self.calls(*arguments) or ""
        starts = [text.find(name) for name in NAMES[: len(arguments)]]
        if min(starts) < 0 or starts != sorted(starts):
            return None
        pieces = [text[start:until] for start, until in pairwise([*starts, len(text)])]
        return [
            piece.removeprefix(name).replace(name, NAME_MARK)
            for piece, name in zip(pieces, NAMES, strict=False)
        ]


def _held_out() -> Iterator[Message]:
    """Turns that no spelling was learnt from."""
    for content in ("", "I will look."):
        for value in _VALUES:
            yield Message("assistant", content, (ToolCall("get_weather", {"at_place": value}),))
    mixed = ToolCall("find", {str(f"key_{n}"): value for n, value in enumerate(_VALUES)})
    some = ToolCall("find", {"x": "text", "n": 4, "yes": False})
    none, also_none = ToolCall("stop", {}), ToolCall("wait_here", {})
    for calls in ((none,), (mixed,), (some, none), (none, some), (some, mixed, none), (none, also_none)):
        yield Message("assistant", "", calls)
        yield Message("assistant", "I will look.", calls)


def reads_back(reader: CallReader, write: Write) -> bool:
    """Whether every turn that the template prints whole is read as what it is, and some are."""
    written = [(message, write(message)) for message in _held_out()]
    printed = [(message, text) for message, text in written if text is not None and _is_whole(text, message)]
    return bool(printed) and all(_reads(reader, message, text) for message, text in printed)


def _is_whole(text: str, message: Message) -> bool:
    """Whether all of the message stands in its turn, its text before the first call."""
    if unwritten(text, message):
        return False
    return not message.content or text.find(message.content) < text.find(message.tool_calls[0].name)


def _reads(reader: CallReader, message: Message, text: str) -> bool:
    read = reader(text)
    if read is None or read[0].strip() != message.content:
        return False
    return _spelt(read[1]) == _spelt(message.tool_calls)


def _spelt(calls: Sequence[ToolCall]) -> str:
    return json.dumps([[call.name, call.arguments] for call in calls], sort_keys=True)

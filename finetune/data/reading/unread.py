"""Keys of records and messages that nothing reads: each is told once, with its count and its first place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.chat.messages import KeyPath
from finetune.data.reading.fields import WrongRecordError, decoded
from finetune.data.reading.layout import Format, Layout
from finetune.data.reading.marks import MARKS
from finetune.data.reading.record import Malformed, Record

_ALL_RECORDS = frozenset(
    ("tools", "functions", "images", "image", "system", "id", "idx", "index", "uuid", "conversation_id")
)
"""What any record may have; a number or name of its own says nothing to be learnt."""

_PARTS_OF: Mapping[Format, frozenset[str]] = {
    "messages": frozenset(("messages", "conversations")),
    "sharegpt": frozenset(("conversations",)),
    "alpaca": frozenset(("instruction", "input", "output", "history")),
    "pairs": frozenset(("conversation",)),
    "prompt-completion": frozenset(("prompt", "completion")),
    "text": frozenset(("text",)),
}
_LISTS = ("messages", "conversations", "prompt", "completion")
_TURN = frozenset(
    (
        *(
            "role",
            "content",
            "from",
            "value",
            "metadata",
            "tools",
            "tool_calls",
            "tool_call_id",
            "function_call",
        ),
        *("reasoning_content", "reasoning", "thinking", "image", "images", "parameters", "observation"),
        "accepted_calls",
        *MARKS,
    )
)
_OF_RESULTS = frozenset(("name",))
"""What a tool's result may bring besides, and a template does not print."""

_PART = frozenset(("type", "text", "image", "image_url", "url", "path", "bytes"))


@dataclass(slots=True)
class Unread:
    """(what has it, key) -> how many have it, and the first."""

    found: dict[tuple[str, str], tuple[int, Malformed]] = field(default_factory=dict)

    def look_at(self, record: Record, layout: Layout) -> None:
        """Note what is read of no record of this layout."""
        data = record.data
        known = _known(layout)
        if not known.issuperset(data):
            for key in data:
                if key not in known and data[key] is not None:
                    self._note("a record", key, record, (key,))
        for key in _LISTS:
            name = layout.names.get(key, key)
            if name in data:
                self._look_at_turns(record, _turns(data[name], name), name)

    def _look_at_turns(self, record: Record, turns: Sequence[Any], name: str) -> None:
        for index, turn in enumerate(turns):
            if not isinstance(turn, dict):
                continue
            if not _TURN.issuperset(turn):
                for key in turn:
                    if key not in _TURN and turn[key] is not None and not _belongs_to_result(key, turn):
                        self._note("a message", key, record, (name, index, key))
            content = turn.get("content")
            for number, part in enumerate(content if isinstance(content, list) else ()):
                for key in set(part) - _PART if isinstance(part, dict) else ():
                    self._note("a part of a content", key, record, (name, index, "content", number, key))

    def _note(self, where: str, key: str, record: Record, path: KeyPath) -> None:
        count, first = self.found.get((where, key), (0, None))
        found = first or record.malformed("W530", f"{where} has the key {key!r}, which nothing reads", path)
        self.found[where, key] = count + 1, found

    def findings(self) -> Iterator[Malformed]:
        """One for each key, at its first place."""
        for count, first in self.found.values():
            often = f"; {count:,} have it" if count > 1 else ""
            yield Malformed(first.source, first.line, first.column, f"{first.reason}{often}", first.code)


def _known(layout: Layout) -> frozenset[str]:
    parts = _PARTS_OF[layout.format]
    if not layout.names:
        return _ALL_RECORDS | parts
    # A part that stands under another key is read there alone.
    named = set(layout.names.values())
    return frozenset((_ALL_RECORDS | parts) - set(layout.names) | named)


def _turns(value: Any, name: str) -> Sequence[Any]:
    """The turns in a list, or in a table's cell; a text is none."""
    if isinstance(value, str):
        try:
            value = decoded(value, name, ()) if value.lstrip().startswith("[") else ()
        except WrongRecordError:
            return ()
    return value if isinstance(value, list) else ()


def _belongs_to_result(key: str, turn: Mapping[str, Any]) -> bool:
    return key in _OF_RESULTS and turn.get("role") in ("tool", "function", "observation")

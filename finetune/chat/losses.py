"""What a template left out of a rendered text: looked for in the text, because templates lose things quietly.

A text may print something stripped, or as Python or JSON; anything else is a loss.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.chat.messages import Message


def first_unprinted(text: str, messages: Sequence[Message]) -> int | None:
    """The first message to the model (system, user, results since the last question) that `text` lacks.

    Every piece of a message uses up the place where it stands, the longest first, so that one of two equal ones
    shows. Images are counted by whoever knows their token.
    """
    asked = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    pieces = [
        (i, part) for i, message in enumerate(messages) for part in message.parts() if isinstance(part, str)
    ]
    missing = []
    for i, piece in sorted(pieces, key=lambda piece: -len(piece[1])):
        found = next((form for form in _forms(piece) if form in text), None)
        if found is not None:
            text = text.replace(found, "\0", 1) if found else text
        elif messages[i].role in ("system", "user") or (messages[i].role == "tool" and i > asked):
            missing.append(i)
    return min(missing, default=None)


def unwritten(turn: str, message: Message) -> str | None:
    """The part of an assistant's message that its own turn lacks, in words."""
    if not _stands(message.content, turn):
        return "its text"
    if message.reasoning and not _stands(message.reasoning, turn):
        return "its thoughts"
    for call in message.tool_calls:
        if turn.count(call.name) < sum(other.name == call.name for other in message.tool_calls):
            return f"the call of {call.name!r}"
        for value in _leaves(call.arguments):
            if not _stands(value, turn):
                return f"an argument of the call of {call.name!r}"
    return None


def _stands(value: Any, text: str) -> bool:
    forms = _forms(value) if isinstance(value, str) else (json.dumps(value), str(value))
    return any(form in text for form in forms)


def _forms(content: str) -> Iterator[str]:
    """How a template may print a text: stripped, as Python or JSON, as JSON inside JSON."""
    for form in (content.strip(), content):
        yield form
        yield repr(form)[1:-1]
        for ensure_ascii in (False, True):
            inside = json.dumps(form, ensure_ascii=ensure_ascii)[1:-1]
            yield inside
            yield json.dumps(inside, ensure_ascii=ensure_ascii)[1:-1]


def _leaves(value: Any) -> Iterator[Any]:
    """Every name and every value of arguments that is no object or list itself."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value

"""Which format a record has, and under which keys its parts stand: told by them, or by `data_config.columns`.

A question and its answer are one format, `alpaca`, whatever a data set calls them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.data.reading.fields import WrongRecordError, decoded

Format = Literal["messages", "sharegpt", "alpaca", "pairs", "prompt-completion", "text"]
Names = Mapping[str, str]
"""What we call a part of a record -> the key that it stands under; a part that is not named has our name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A record's format, the keys of its parts, and how that was told."""

    format: Format
    why: str
    names: Names = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fields:
    """A record's data, by our names."""

    data: Mapping[str, Any]
    names: Names = field(default_factory=dict)

    def key(self, name: str) -> str:
        """What the record calls it."""
        return self.names.get(name, name)

    def get(self, name: str) -> Any:
        """The value, or None."""
        return self.data.get(self.key(name))

    def need(self, name: str) -> Any:
        """The value. Raises WrongRecordError where there is none."""
        key, value = self.key(name), self.get(name)
        if value is None:
            found = "it is null" if key in self.data else f"it has {_keys(self.data)}"
            raise WrongRecordError("E202", f'the record has no "{key}"; {found}', (key,))
        return value


_QUESTIONS: Sequence[tuple[str, str, Names]] = (
    ("", "", {"instruction": "instruction", "output": "output"}),
    ("Dolly", "context", {"instruction": "instruction", "output": "response"}),
    ("ms-swift", "", {"instruction": "query", "output": "response"}),
    ("", "", {"instruction": "prompt", "output": "response"}),
    ("", "", {"instruction": "question", "output": "answer"}),
    ("AdvertiseGen", "", {"instruction": "content", "output": "summary"}),
    ("Firefly", "", {"instruction": "input", "output": "target"}),
    ("", "", {"instruction": "input", "output": "output"}),
)
"""(whose, key of a text that belongs to the question, keys of question and answer): the first that fits."""

_PAIRS: Sequence[tuple[str, str, str]] = (("Firefly", "human", "assistant"), ("XTuner", "input", "output"))
"""(whose, the key of a question, of an answer) in the elements of a list `conversation`."""

MEANINGS: Mapping[str, str] = {"user": "instruction", "context": "input", "assistant": "output"}
"""What `data_config.columns` calls a part -> our name for it; all others have one name."""


def detect_layout(data: Mapping[str, Any], columns: Names) -> Layout:
    """A record's layout; `columns`: a key -> what stands there. Raises WrongRecordError if it has none."""
    if columns:
        names = {MEANINGS.get(meaning, meaning): key for key, meaning in columns.items()}
        return Layout(_format_of(Fields(data, names)), "data_config.columns says so", names)
    if "messages" in data:
        return Layout("messages", 'records have "messages"')
    if "conversations" in data:
        if _has_roles(data["conversations"]):
            return Layout("messages", 'records have "conversations" whose turns have a "role"')
        return Layout("sharegpt", 'records have "conversations"')
    if "instruction" in data and "output" in data:
        return Layout("alpaca", 'records have "instruction" and "output"')
    if "prompt" in data and "completion" in data:
        return Layout("prompt-completion", 'records have "prompt" and "completion"')
    if "text" in data:
        return Layout("text", 'records have "text"')
    if pairs := pair_names(data):
        whose = next(tool for tool, question, _ in _PAIRS if question == pairs["instruction"])
        return Layout("pairs", f'records have "conversation", a list of questions and answers ({whose})', pairs)
    if questions := question_names(data):
        return Layout("alpaca", _why_questions(questions), questions)
    expected = "messages | conversations | instruction and output | prompt and completion | text"
    reason = f"no known format: the record has {_keys(data)}; expected {expected}"
    raise WrongRecordError("E201", f"{reason}; or name its keys in data_config.columns")


def names_under(format: Format, data: Mapping[str, Any]) -> Names:  # noqa: A002
    """The keys of a record's parts, where its format is said outright."""
    if format == "alpaca":
        return question_names(data)
    return pair_names(data) if format == "pairs" else {}


def question_names(data: Mapping[str, Any]) -> Names:
    """The keys of question and answer in a record; empty where it has none."""
    for _, context, names in _QUESTIONS:
        if names["instruction"] in data and names["output"] in data:
            return {**names, "input": context} if context in data else names
    return {}


def pair_names(data: Mapping[str, Any]) -> Names:
    """The keys of question and answer in the elements of `conversation`; empty where it is no such list."""
    listed = data.get("conversation")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    found = (names for _, *names in _PAIRS if names[0] in first and names[1] in first)
    return next(({"instruction": question, "output": answer} for question, answer in found), {})


def _why_questions(names: Names) -> str:
    whose = next(tool for tool, _, known in _QUESTIONS if known.items() <= names.items())
    found = f'records have "{names["instruction"]}" and "{names["output"]}"'
    return f"{found} ({whose})" if whose else found


def _format_of(fields: Fields) -> Format:
    """Of a record whose parts were named by a person."""
    for name, format_ in _BY_PART.items():
        if name in fields.names:
            return "messages" if format_ == "sharegpt" and _has_roles(fields.get(name)) else format_
    named = ", ".join(sorted(fields.names))
    raise WrongRecordError("E201", f"no known format: data_config.columns names {named}, but no answer")


_BY_PART: Mapping[str, Format] = {
    "messages": "messages",
    "conversations": "sharegpt",
    "completion": "prompt-completion",
    "output": "alpaca",
    "text": "text",
}


def _keys(data: Mapping[str, Any]) -> str:
    return ", ".join(json.dumps(key, ensure_ascii=False) for key in list(data)[:8]) or "no fields"


def _has_roles(turns: Any) -> bool:
    try:
        listed = decoded(turns, "conversations", ())
    except WrongRecordError:
        return False
    return isinstance(listed, list) and bool(listed) and isinstance(listed[0], dict) and "role" in listed[0]

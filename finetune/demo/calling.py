"""What the real demo teaches: to call functions, from rows of the Berkeley Function Calling Leaderboard.

    question and functions, accepted answers --> a row of messages with one call, and tools in JSON Schema

It trains on live_simple and live_multiple, asked by users of a deployed system, and tests on simple_python,
written for the leaderboard: a good score means that calling was carried over to functions never seen.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.chat.messages import ToolCall
from finetune.eval.accepted import OMITTED, Accepted, why_wrong

Row = dict[str, Any]

TRAIN = ("live_simple", "live_multiple")
TEST = "simple_python"
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array"}  # and `any`, which is every type


@dataclass(frozen=True, slots=True)
class Task:
    """One question: what a user wants, the functions there are, and the calls that are accepted."""

    name: str
    messages: Sequence[Mapping[str, str]]
    functions: Sequence[Mapping[str, Any]]
    accepted: Sequence[Accepted]

    @property
    def length(self) -> int:
        """Characters of all that a model reads for it, about."""
        return len(json.dumps([*self.messages, *self.functions]))

    def why_wrong(self, calls: Sequence[ToolCall]) -> str | None:
        """What is wrong with calls, as the leaderboard judges; None where they are right."""
        parameters = {function["name"]: function["parameters"] for function in self.functions}
        return why_wrong(calls, self.accepted, parameters)

    def call(self, number: int = 0) -> ToolCall:
        """An accepted call: the first accepted values, without what may be left out."""
        ((name, values),) = self.accepted[number].items()
        return ToolCall(name, _first_values(values))

    def row(self) -> Row:
        """A conversation to learn from, in OpenAI's shape."""
        call = self.call()
        function = {"name": call.name, "arguments": dict(call.arguments)}
        answer = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": function}],
            "accepted_calls": self.accepted,
        }
        tools = [{"type": "function", "function": _in_json_schema(function)} for function in self.functions]
        return {"messages": [*self.messages, answer], "tools": tools}


def tasks(data: Path, category: str) -> Iterator[Task]:
    """The tasks of a category, in the order of its file, from the leaderboard's data folder."""
    name = f"BFCL_v4_{category}.json"
    questions, answers = (_rows(folder / name) for folder in (data, data / "possible_answer"))
    for asked, answer in zip(questions, answers, strict=True):
        yield Task(asked["id"], asked["question"][0], asked["function"], answer["ground_truth"])


def training_tasks(data: Path, longest: int) -> list[Task]:
    """Those of the training categories with at most `longest` characters, whose own call is right."""
    found = [task for category in TRAIN for task in tasks(data, category)]
    return [task for task in found if task.length <= longest and task.why_wrong([task.call()]) is None]


def _rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _first_values(values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Arguments: of each the first accepted value. Lists of accepted values are also in dicts, not deeper."""
    return {key: _filled(options[0]) for key, options in values.items() if _needed(options)}


def _filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(one) if isinstance(one, dict) else one for one in value]
    if isinstance(value, dict):
        return {key: options[0] for key, options in value.items() if _needed(options)}
    return value


def _needed(options: Any) -> bool:
    """True: there are accepted values, and leaving it out is none of them."""
    return isinstance(options, list) and bool(options) and OMITTED not in options


def _in_json_schema(schema: Any) -> Any:
    """A function's description with JSON Schema's names of types, at any depth."""
    if isinstance(schema, list):
        return [_in_json_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    known = {key: value for key, value in schema.items() if (key, value) != ("type", "any")}
    return {
        key: _JSON_TYPES.get(value, value)
        if key == "type" and isinstance(value, str)
        else _in_json_schema(value)
        for key, value in known.items()
    }

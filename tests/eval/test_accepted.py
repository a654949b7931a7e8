"""The leaderboard's AST match, case by case. tests/real/test_bfcl.py compares it with the leaderboard's own."""

from typing import Any

import pytest

from finetune.chat.messages import ToolCall
from finetune.eval.accepted import why_wrong

MISSING: Any = object()

# type in the schema, accepted values, the argument's value, right
ARGUMENT: list[tuple[Any, list[Any], Any, bool]] = [
    ({"type": "integer"}, [5], 5, True),
    ({"type": "integer"}, [5], 6, False),
    ({"type": "integer"}, [5], 5.0, False),
    ({"type": "integer"}, [5], "5", False),
    ({"type": "integer"}, [5, "five"], "five", False),  # the accepted values' type is that of the first
    ({"type": "integer"}, ["five"], "five", True),  # a variable's name
    ({"type": "integer"}, [1], True, False),
    ({"type": "integer"}, [5, ""], MISSING, True),
    ({"type": "integer"}, [5], MISSING, False),
    ({"type": "float"}, [5.0], 5, True),
    ({"type": "float"}, [5], 5.0, True),
    ({"type": "number"}, [0.5], 0.5, True),
    ({"type": "float"}, [0.5], "0.5", False),
    ({"type": "boolean"}, [True], True, True),
    ({"type": "boolean"}, [True], "true", False),
    ({"type": "boolean"}, [True], 1, False),
    ({"type": "string"}, ["April 1, 2024"], "april 1 2024", True),
    ({"type": "string"}, ["it's"], 'it"s', True),
    ({"type": "string"}, ["New York, NY"], "New York", False),
    ({"type": "string"}, ["a", ""], "", True),
    ({"type": "string"}, ["5"], 5, False),
    ({"type": "any"}, ["5"], "5", True),
    ({"type": "any"}, [5], 5, True),
    ({"type": "any"}, [5], "5", False),
    ({}, [5], 5, True),
    ({"type": "array", "items": {"type": "string"}}, [["a", "B c"]], ["A", "bc"], True),
    ({"type": "array", "items": {"type": "string"}}, [["a", "b"]], ["b", "a"], False),
    ({"type": "array", "items": {"type": "string"}}, [["a"]], "a", False),
    ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [1, 2], True),
    ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [1, "2"], False),
    ({"type": "array", "items": {"type": "float"}}, [[1.0, 2.5]], [1, 2.5], False),  # only alone int is float
    ({"type": "array", "items": {"type": "float"}}, [[1, 2]], [1, 2], True),
    ({"type": "array", "items": {"type": "array"}}, [[[1, 2], [3]]], [[1, 2], [3]], True),
    ({"type": "tuple", "items": {"type": "float"}}, [[1.5, 2.5]], [1.5, 2.5], True),
    ({"type": "array"}, [["a"]], ["a"], True),
    ({"type": "dict"}, [{"x": [1], "y": ["A-b", ""]}], {"x": 1, "y": "ab"}, True),
    ({"type": "dict"}, [{"x": [1], "y": ["A-b", ""]}], {"x": 1}, True),
    ({"type": "object"}, [{"x": [1], "y": ["A-b", ""]}], {"y": "ab"}, False),
    ({"type": "dict"}, [{"x": [1]}], {"x": 1, "z": 2}, False),
    ({"type": "dict"}, [{"x": [1]}, {"x": [2]}], {"x": 2}, True),
    ({"type": "dict"}, ["", {"x": [1]}], {"x": 1}, True),
    ({"type": "dict"}, [""], {}, False),
    ({"type": "array", "items": {"type": "dict"}}, [[{"x": [1]}, {"x": [2, 3]}]], [{"x": 1}, {"x": 3}], True),
    ({"type": "array", "items": {"type": "dict"}}, [[{"x": [1]}, {"x": [2, 3]}]], [{"x": 3}, {"x": 1}], False),
    ({"type": "array", "items": {"type": "dict"}}, [[{"x": [1]}]], [{"x": 1}, {"x": 1}], False),
]


@pytest.mark.parametrize(("schema", "accepted", "value", "right"), ARGUMENT)
def test_an_argument_is_right_by_its_type_and_the_accepted_values(
    schema: Any, accepted: list[Any], value: Any, right: bool
) -> None:
    call = ToolCall("f", {} if value is MISSING else {"a": value})
    reason = why_wrong([call], [{"f": {"a": accepted}}], {"f": {"properties": {"a": schema}}})
    assert (reason is None) == right, reason


INTEGERS = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]}
F1, F2, G1 = ToolCall("f", {"a": 1}), ToolCall("f", {"a": 2}), ToolCall("g", {"a": 1})
ONE, TWO = {"f": {"a": [1], "b": [0, ""]}}, {"f": {"a": [2]}}

CALLS: list[tuple[list[ToolCall], list[Any], str | None]] = [
    ([F1], [ONE], None),
    ([], [ONE], "0 calls; expected 1"),
    ([F1, F1], [ONE], "2 calls; expected 1"),
    ([G1], [ONE], "calls g; expected f"),
    ([F2], [ONE], "a is 2; accepted: 1"),
    ([ToolCall("f", {"b": 0})], [{"f": {"a": [1, ""], "b": [0]}}], "a is missing"),  # required by the schema
    ([ToolCall("f", {"a": 1, "c": 1})], [ONE], "c is no argument of it"),
    ([ToolCall("f", {"a": 2, "b": 0})], [TWO], "b is no argument of it"),  # of the function, but not accepted
    ([F1, F2], [ONE, TWO], None),
    ([F2, F1], [ONE, TWO], None),
    ([F1, F1], [ONE, TWO], "a is 1; accepted: 2"),
    ([ToolCall("h", {"x": "Yes"})], [{"h": {"x": ["yes"]}}], None),  # no schema: any
]


@pytest.mark.parametrize(("calls", "accepted", "reason"), CALLS)
def test_calls_are_right_in_any_order_each_by_its_own_answer(
    calls: list[ToolCall], accepted: list[Any], reason: str | None
) -> None:
    assert why_wrong(calls, accepted, {"f": INTEGERS, "g": INTEGERS}) == reason

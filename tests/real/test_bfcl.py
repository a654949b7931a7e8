"""Our AST match against the leaderboard's own code, with calls right and wrong in many ways."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune.chat.messages import ToolCall
from finetune.demo.calling import Task, tasks
from tests.real import things

pytestmark = pytest.mark.real

Check = Callable[[Task, list[ToolCall]], bool]
CATEGORIES = ("simple_python", "live_simple", "multiple", "live_multiple", "parallel", "live_parallel_multiple")


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Check:
    """The leaderboard's verdict. Its table of models is left out: it imports a client of every vendor."""
    monkeypatch.syspath_prepend(f"{things.bfcl_checker()}")
    table = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = {"ours": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, table.__name__, table)
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(task: Task, calls: list[ToolCall]) -> bool:
        answers = [{call.name: dict(call.arguments)} for call in calls]
        category = task.name.rpartition("_")[0]
        found = ast_checker(task.functions, answers, task.accepted, Language.PYTHON, category, "ours")
        return bool(found["valid"])

    return check


def variants(task: Task) -> Iterator[list[ToolCall]]:
    """Calls right and wrong: the accepted values one by one, and each with something done to it."""
    calls = [task.call(number) for number in range(len(task.accepted))]
    yield from ([], calls, calls[::-1], [*calls, calls[0]])
    call, (values,) = calls[0], task.accepted[0].values()
    rest = calls[1:]
    yield [replace(call, name=f"{call.name}_"), *rest]
    yield [replace(call, arguments={**call.arguments, "surprise": 1}), *rest]
    for key, options in values.items():
        yield [replace(call, arguments={k: v for k, v in call.arguments.items() if k != key}), *rest]
        for value in options:
            for changed in (value, *changes(value)):
                yield [replace(call, arguments={**call.arguments, key: changed}), *rest]


def changes(value: Any) -> Iterator[Any]:
    yield from (str(value), [value], [], {}, True, 0, 1.5, "")
    if isinstance(value, str):
        yield from (value.upper(), f" {value.replace(' ', '_')}!", value.replace("-", ","), f"{value}s")
    if isinstance(value, int | float):
        yield from (float(value), int(value), -value)
    if isinstance(value, list):
        yield from (value[::-1], value[1:], [*value, *value[:1]], [str(one) for one in value], {"a": value})
        yield [filled(one) for one in value]
        yield [filled(one) for one in value][:1]
    if isinstance(value, dict):
        first = filled(value)
        yield from (first, {**first, "surprise": 1}, dict(list(first.items())[1:]))
        yield {key: one.upper() if isinstance(one, str) else [one] for key, one in first.items()}


def filled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: options[0] if isinstance(options, list) and options else options for key, options in value.items()
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_our_verdict_is_the_leaderboards(category: str, theirs: Check) -> None:
    verdicts: Counter[bool | str] = Counter()
    for task in tasks(things.bfcl(), category):
        for calls in variants(task):
            try:
                wanted = theirs(task, calls)
            except (AttributeError, TypeError, KeyError, IndexError) as error:  # it has no verdict on these
                verdicts[type(error).__name__] += 1
                continue
            assert (task.why_wrong(calls) is None) == wanted, (task.name, calls, task.why_wrong(calls))
            verdicts[wanted] += 1
    print(category, dict(verdicts))
    assert verdicts[True] >= 100 and verdicts[False] >= 500
    assert verdicts[True] + verdicts[False] >= 0.97 * verdicts.total()

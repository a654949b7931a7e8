"""A mistake of any kind, at any key of any level, is refused where it stands, and all of a file at once."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune.config import conflicts
from finetune.config.keys import PLACES
from finetune.config.tuning import TUNINGS
from tests.config.conftest import schema_mistakes
from tests.config.mistake_kinds import KEYS, KINDS, Case, every_case, pairs, wrong_types
from tests.config.mistakes import AT_A_PLACE, judge, refusal_of, show, table
from tests.config.test_messages import refused

Kind = Callable[[], Iterator[Case]]


def spread(cases: list[Case], most: int) -> list[Case]:
    """At most so many, from all over the list."""
    return cases[:: -(-len(cases) // most)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_mistake_is_refused_where_it_stands(kind: Kind, tmp_path: Path) -> None:
    judged = [(case, judge(case, tmp_path)) for case in spread(list(kind()), 200)]
    assert [f"{case.text}\n{verdict.said}" for case, verdict in judged if not verdict.placed] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_right_suggestion_is_made_for_95_of_100(kind: Kind, tmp_path: Path) -> None:
    asked = [case for case in kind() if case.wanted]
    missed = [case for case in spread(asked, 200) if not judge(case, tmp_path).helped] if asked else []
    assert len(missed) <= 0.05 * len(spread(asked, 200) if asked else []), missed


def test_there_are_thousands_of_them() -> None:
    assert len(every_case()) > 10_000
    assert len({(case.text, case.key) for case in every_case()}) > 10_000


@pytest.mark.long
def test_every_one_of_them(tmp_path: Path) -> None:
    rows = list(table(every_case(), tmp_path))
    assert all(placed == cases and helped >= 0.95 * asked for _, cases, placed, asked, helped in rows), show(
        rows
    )


SEEN_BY_THE_SCHEMA = {
    "one letter of a key",
    "one letter of a choice",
    "a value of another type",
    "null where none may be",
    "a key at another level",
    "a name of another tool",
    "a key that is not honoured",
    "what is needed left out",
}


@pytest.mark.parametrize("kind", sorted(SEEN_BY_THE_SCHEMA))
def test_the_json_schema_refuses_it_too(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    accepted = []
    for case in spread([case for case in every_case() if case.kind == kind], 40):
        path.write_text(case.text, encoding="utf-8")
        accepted += [] if schema_mistakes(path) else [case.text]
    assert accepted == []


def test_two_options_agree_or_are_refused_at_a_place(tmp_path: Path) -> None:
    sample = list(pairs())[::8]
    refusals = [refusal_of(config, tmp_path) for config in sample]
    assert len(sample) > 500
    assert 50 < sum(map(bool, refusals)) < len(sample)
    assert [lines for lines in refusals if not all(map(AT_A_PLACE.match, lines))] == []


def test_two_options_that_agree_are_valid_for_the_json_schema(tmp_path: Path) -> None:
    for config in list(pairs())[::40]:
        if not refusal_of(config, tmp_path):
            assert schema_mistakes(tmp_path / "c.yaml") == [], config


def messages_of_conflicts() -> list[str]:
    """Of every conflict in conflicts.py, the longest piece of its message that is always the same."""
    tree = ast.parse(Path(conflicts.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    found = []
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in ("Conflict", "_peft") and call.args:
            pieces = [node.value for node in ast.walk(call.args[-1]) if isinstance(node, ast.Constant)]
            texts = [piece for piece in pieces if isinstance(piece, str)]
            found += [max(texts, key=len)] if texts else []
    return found


NOTHING_TO_EVALUATE = "data_config: {train_file: a}\ntraining_args: {eval_strategy: epoch}\n"
SKIPPED_AND_LEARNT = "data_config: {train_file: a, thinking: skip-empty, train_on: everything}\n"


def test_every_rule_about_two_keys_fires(refusal: Callable[..., list[str]]) -> None:
    """In the table of refusals, which a test compares word for word; two need a data_config of their own."""
    table_of_refusals = [line for _, lines in refused() for line in lines]
    of_files = [line for file in (NOTHING_TO_EVALUATE, SKIPPED_AND_LEARNT) for line in refusal(file)]
    said = "\n".join([*table_of_refusals, *of_files])
    rules = messages_of_conflicts()
    assert len(rules) >= 20
    assert [rule for rule in rules if rule not in said] == []


@pytest.mark.parametrize("kind", TUNINGS)
def test_all_mistakes_of_a_file_are_told_at_once(kind: str, tmp_path: Path) -> None:
    lines: list[str] = []
    places: list[str] = []
    wrong = {case.key: case for case in reversed(list(wrong_types()))}

    def write(level: str, depth: int) -> None:
        for key in [key for key in KEYS if key.level == level and kind in (key.kinds or (kind,))]:
            indent = "  " * depth
            if key.path in PLACES and key.path != "data_config.train_file":
                lines.append(f"{indent}{key.name}:")
                write(key.path, depth + 1)
            elif key.name == "peft_type":
                lines.append(f"{indent}peft_type: {kind}")
            else:
                value = wrong[key.path].text.rsplit(f"{key.name}: ", 1)[1].strip()
                lines.append(f"{indent}{key.name}: {value}")
                places.append(f"c.yaml:{len(lines)}:{len(indent) + len(key.name) + 3}: {key.path}")

    write("", 0)
    case = Case("all", "\n".join(lines) + "\n", 1, 1, "")
    said = judge(case, tmp_path).said.splitlines()
    assert len(places) > 90
    assert [": ".join(line.split(": ")[:2]) for line in said] == places

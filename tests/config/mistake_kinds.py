"""Mistakes, made from the schema: every key at every level, wrong in every way that can be thought of."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from finetune.config.examples import example
from finetune.config.keys import PLACES, Key, every_key
from finetune.config.names import LEVELS
from finetune.config.other_tools import ABSENT, ELSEWHERE
from finetune.config.transformers_keys import GENERATION_KEYS, NO_EFFECT, NOT_HONOURED

LETTERS = "abcdefghijklmnopqrstuvwxyz_"
KEYS = every_key()
HEAD = "data_config: {train_file: train.jsonl, val_file: dev.jsonl, test_file: test.jsonl}\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A file with one mistake at line:column; a message must name `key` there, and say `wanted` where given."""

    kind: str
    text: str
    line: int
    column: int
    key: str
    wanted: str = ""


def _beside(key: Key, kind: str) -> Iterator[str]:
    """The lines that a map needs besides `key`."""
    if key.level == "data_config":
        needed = {"train_file": "train.jsonl", "val_file": "dev.jsonl"}
    elif key.level == "data_config.train_file":
        needed = {"file": "train.jsonl"}
    elif key.level == "peft_config":
        needed = (
            {"peft_type": kind, "num_virtual_tokens": "8"}
            if kind not in ("LORA", "IA3")
            else {"peft_type": kind}
        )
    else:
        needed = {}
    return (f"{name}: {value}" for name, value in needed.items() if name != key.name)


def lines_of(key: Key, written: str, name: str | None = None) -> tuple[list[str], int, int]:
    """A file with `name` (else the key's own) at the level of `key`; the key's line and column, from 1."""
    parts = key.level.split(".") if key.level else []
    lines = [] if parts[:1] == ["data_config"] or key.path == "data_config" else [HEAD.rstrip()]
    lines += [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    kind = key.kinds[0] if key.kinds else "LORA"
    indent = "  " * len(parts)
    inner = [*_beside(key, kind), f"{name or key.name}: {written}"]
    if key.level == "data_config.train_file":
        inner = [f"- {inner[0]}", *(f"  {line}" for line in inner[1:])]
        if len(inner) == 1:
            return [*lines, f"{indent}{inner[0]}"], len(lines) + 1, len(indent) + 3
        return [*lines, *(indent + line for line in inner)], len(lines) + len(inner), len(indent) + 3
    return [*lines, *(indent + line for line in inner)], len(lines) + len(inner), len(indent) + 1


def _spoken(key: Key, name: str | None = None) -> str:
    """The dotted key as a message has it."""
    level = "data_config.train_file[0]" if key.level == "data_config.train_file" else key.level
    return f"{level}.{name or key.name}".removeprefix(".")


def of_value(kind: str, key: Key, written: str, wanted: str = "") -> Case:
    """A case whose mistake is the value."""
    lines, line, column = lines_of(key, written)
    return Case(kind, "\n".join(lines) + "\n", line, column + len(key.name) + 2, _spoken(key), wanted)


def of_key(kind: str, key: Key, name: str, wanted: str = "", written: str = "1") -> Case:
    """A case whose mistake is the name, at the level of `key`."""
    lines, line, column = lines_of(key, written, name)
    if key.path in ("data_config", "data_config.train_file", "data_config.train_file.file"):
        lines = [*lines, *_what_is_missing_else(key)]
    return Case(kind, "\n".join(lines) + "\n", line, column, _spoken(key, name), wanted)


def _what_is_missing_else(key: Key) -> list[str]:
    return {
        "data_config": [HEAD.rstrip()],
        "data_config.train_file": ["  train_file: train.jsonl"],
        "data_config.train_file.file": ["      file: train.jsonl"],
    }[key.path]


def typos(word: str, letter: random.Random) -> Iterator[str]:
    """Every omission and exchange of neighbours; at every place one wrong and one additional letter."""
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
        yield word[:i] + letter.choice(LETTERS) + word[i + 1 :]
        yield word[:i] + letter.choice(LETTERS) + word[i:]
        yield word[:i] + word[i : i + 2][::-1] + word[i + 2 :]


KNOWN = set().union(*LEVELS.values(), NOT_HONOURED, NO_EFFECT, GENERATION_KEYS, ELSEWHERE, ABSENT)


def misspelt_keys() -> Iterator[Case]:
    letter = random.Random(0)
    for key in KEYS:
        if len(key.name) > 1:
            for typo in sorted(set(typos(key.name, letter)) - KNOWN - {""}):
                yield of_key("one letter of a key", key, typo, f"unknown key; did you mean {key.name}?")


def misspelt_choices() -> Iterator[Case]:
    letter = random.Random(1)
    for key in [key for key in KEYS if "string" not in _types(key)]:
        known = {*_choices(key), *(shape.get("const") for shape in _shapes(key)), ""}
        for choice in [choice for choice in _choices(key) if len(choice) > 2]:
            for typo in sorted(set(typos(choice, letter)) - known)[::5]:
                yield of_value("one letter of a choice", key, f'"{typo}"', f"did you mean {choice}?")


def _shapes(key: Key) -> list[dict[str, Any]]:
    """The alternatives of a key's schema, those of a list's items left out."""
    ways = key.shape.get("anyOf") or key.shape.get("oneOf") or [key.shape]
    return [dict(way) for way in ways]


def _choices(key: Key) -> list[str]:
    return [choice for shape in _shapes(key) for choice in shape.get("enum", ()) if isinstance(choice, str)]


def _types(key: Key) -> set[str]:
    """The JSON types a key may have; a text that must be one of several is none."""
    if key.path in PLACES and key.name != "train_file":
        return {"object", *(["null"] if "null" in key.value else [])}
    return {
        str(shape.get("type", "object"))
        for shape in _shapes(key)
        if "enum" not in shape and "const" not in shape
    }


WRONG_TYPES = {
    "string": ["many", '""', "'3x'"],
    "number": ["7.5"],
    "integer": ["7"],
    "boolean": ["true"],
    "array": ["[7]", "[]", "[a, b]"],
    "object": ["{a: 1}", "{}"],
    "null": ["null", "~"],
}
"""JSON type -> what is wrong where that type is not allowed."""


def wrong_types() -> Iterator[Case]:
    for key in KEYS:
        allowed = _types(key)
        for kind, values in WRONG_TYPES.items():
            if kind in allowed or (kind == "integer" and "number" in allowed) or _is_allowed_anyway(key, kind):
                continue
            name = "null where none may be" if kind == "null" else "a value of another type"
            yield from (of_value(name, key, value) for value in values)


def _is_allowed_anyway(key: Key, kind: str) -> bool:
    """What validators let pass besides the schema's types: nulls in generation_config, `true` in const keys."""
    if kind == "null":
        return key.level == "training_args.generation_config"
    return kind == "boolean" and any(isinstance(shape.get("const"), bool) for shape in _shapes(key))


def out_of_range() -> Iterator[Case]:
    for key in KEYS:
        for shape in _shapes(key):
            yield from (of_value("out of range", key, value) for value in _beyond(shape))
        if any(shape.get("const") is False for shape in _shapes(key)):
            yield of_value("out of range", key, "true")
    for name in ("warmup_steps", "save_steps", "eval_steps", "logging_steps"):
        yield of_value("out of range", _key(f"training_args.{name}"), "1.5")
    yield of_value("out of range", _key("training_args.max_steps"), "0")


def _beyond(shape: dict[str, Any]) -> Iterator[str]:
    if "exclusiveMinimum" in shape:
        yield from (str(shape["exclusiveMinimum"]), str(shape["exclusiveMinimum"] - 1))
    if "minimum" in shape:
        yield from (str(shape["minimum"] - 1), str(shape["minimum"] - 1000))
    if "exclusiveMaximum" in shape:
        yield from (str(shape["exclusiveMaximum"]), str(shape["exclusiveMaximum"] * 2))
    if "maximum" in shape:
        yield from (str(shape["maximum"] + 1), str(shape["maximum"] * 100))


def _key(path: str) -> Key:
    return next(key for key in KEYS if key.path == path)


def _numeric(key: Key) -> bool:
    return bool(_types(key) & {"number", "integer"})


def not_finite() -> Iterator[Case]:
    for key in filter(_numeric, KEYS):
        yield from (of_value("NaN or infinity", key, value) for value in (".nan", ".inf", "-.inf"))


def given_twice() -> Iterator[Case]:
    for key in KEYS:
        written = "{}" if key.path in PLACES and key.name != "train_file" else example(key)
        lines, line, column = lines_of(key, written)
        again = f"{' ' * (column - 1)}{key.name}: {written}"
        text = "\n".join([*lines, again]) + "\n"
        yield Case(
            "a key given twice", text, line + 1, column, _spoken(key), f"given twice, first at c.yaml:{line}:"
        )


HABITS = {"yes": "true", "no": "false", "on": "true", "off": "false", "y": "true", "N": "false", "Yes": "true"}
NUMBERS = {"1_000": "1000", "010": "10", "0b11": "3", "1:30": "90", "1,000": "1000", "1 000": "1000"}


def yaml_1_1() -> Iterator[Case]:
    for key in KEYS:
        if _is_flag(key):
            for habit, meant in HABITS.items():
                yield of_value("habits of YAML 1.1", key, habit, f"YAML 1.2 writes {meant}")
        elif _numeric(key):
            for habit, meant in NUMBERS.items():
                yield of_value("habits of YAML 1.1", key, habit, meant)


def _is_flag(key: Key) -> bool:
    only_false = any(shape.get("const") is False for shape in _shapes(key))
    return only_false or ("boolean" in _types(key) and "string" not in _types(key))


def tabs() -> Iterator[Case]:
    for key in KEYS:
        if key.level:
            lines, line, _ = lines_of(key, example(key))
            lines[line - 1] = "\t" + lines[line - 1].lstrip()
            yield Case("a tab", "\n".join(lines) + "\n", line, 1, "", "YAML is indented with spaces")


def wrong_level() -> Iterator[Case]:
    levels = {
        level: next(key for key in KEYS if key.level == level)
        for level in ("", "training_args", "run", "model_config")
    }
    for key in KEYS:
        homes = [level for level, names in LEVELS.items() if key.name in names]
        for level, neighbour in levels.items():
            if level not in homes and len(homes) == 1 and key.name not in ELSEWHERE and key.level:
                yield of_key("a key at another level", neighbour, key.name, f"belongs under {key.level}", "1")


TAKEN_THERE = {*NOT_HONOURED, *NO_EFFECT, "warmup_ratio"}
"""Names of other tools that are transformers' own, under training_args."""


def other_tools() -> Iterator[Case]:
    for level in ("", "training_args", "peft_config"):
        neighbour = next(key for key in KEYS if key.level == level and key.name != "peft_type")
        spare = Key(level, "spare", "", "", "", {}, neighbour.kinds)
        for name, here in ELSEWHERE.items():
            if name in LEVELS[level] or (level == "training_args" and name in TAKEN_THERE):
                continue
            for spelt in dict.fromkeys((name, name.replace("_", "-"), _camel(name))):
                if spelt not in KNOWN or spelt == name:
                    yield of_key("a name of another tool", spare, spelt, here)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def not_honoured() -> Iterator[Case]:
    spare = Key("training_args", "spare", "", "", "", {})
    for name in NOT_HONOURED:
        yield of_key("a key that is not honoured", spare, name, "remove it (default: ", "other")


def left_out() -> Iterator[Case]:
    yield Case("what is needed left out", "run: {}\n", 1, 1, "data_config", "is needed")
    yield Case(
        "what is needed left out", "data_config:\n  num_proc: 1\n", 1, 1, "data_config.train_file", "is needed"
    )
    for kind in ("PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING"):
        text = f"{HEAD}peft_config:\n  peft_type: {kind}\n"
        yield Case("what is needed left out", text, 2, 1, "peft_config.num_virtual_tokens", "is needed")
    yield Case(
        "what is needed left out", f"{HEAD}peft_config:\n  r: 8\n", 2, 1, "peft_config.peft_type", "LORA"
    )
    text = "data_config:\n  train_file:\n    - weight: 1\n"
    yield Case("what is needed left out", text, 2, 3, "data_config.train_file[0].file", "is needed")


KINDS = (
    misspelt_keys,
    misspelt_choices,
    wrong_types,
    out_of_range,
    not_finite,
    given_twice,
    yaml_1_1,
    tabs,
    wrong_level,
    other_tools,
    not_honoured,
    left_out,
)


def every_case() -> list[Case]:
    """All of them, of every kind."""
    return [case for kind in KINDS for case in kind()]


def pairs() -> Iterator[dict[str, Any]]:
    """Configurations with two options of few values, each away from its default."""
    options = [(key, value) for key in KEYS if key.name != "peft_type" for value in _few_values(key)]
    for (one, first), (other, second) in combinations(options, 2):
        kinds = [kind for kind in one.kinds or other.kinds if not other.kinds or kind in other.kinds]
        if one.path != other.path and (kinds or not (one.kinds or other.kinds)):
            yield _with_both((one, first), (other, second), kinds[0] if kinds else None)


def _few_values(key: Key) -> list[Any]:
    """The choices of an enum, true and false, null; the default left out."""
    shapes = _shapes(key)
    choices = [
        choice for shape in shapes for choice in shape.get("enum", [shape["const"]] if "const" in shape else [])
    ]
    if "boolean" in _types(key):
        choices += [True, False]
    if choices and "null" in _types(key):
        choices.append(None)
    return [choice for choice in choices if choice is not key.shape.get("default")]


def _with_both(one: tuple[Key, Any], other: tuple[Key, Any], kind: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {"data_config": {"train_file": "a", "val_file": "b", "test_file": "c"}}
    if kind is not None:
        config["peft_config"] = {"peft_type": kind} | (
            {} if kind in ("LORA", "IA3") else {"num_virtual_tokens": 8}
        )
    for key, value in (one, other):
        place = config
        for part in key.level.split(".") if key.level else ():
            place = place.setdefault(part, {})
        place[key.name] = [value] if key.name in ("report_to", "metrics") else value
    return config

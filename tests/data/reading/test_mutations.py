"""Good records of every format, spoilt at random: each is read, or refused with its place and a code."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finetune.data.checking.review import review
from finetune.data.reading.formats import PlainText
from finetune.data.reading.intake import Intake

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
GOOD: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "好", "weight": 1}]},
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "t"},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
            {"role": "assistant", "content": "a", "train": True},
        ],
        "tools": [TOOL],
    },
    {
        "messages": [
            {"role": "system", "content": "", "tools": [TOOL["function"]]},
            {"role": "user", "content": "q", "image": "x.png"},
            {"role": "assistant", "metadata": "f", "content": '{"x": "é"}'},
            {"role": "observation", "content": "r"},
            {"role": "assistant", "content": '{"name": "f", "arguments": {}}'},
        ]
    },
    {
        "conversations": [
            {"from": "human", "value": "<image>q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": [1]}}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        "system": "s",
        "tools": json.dumps([TOOL]),
        "images": ["x.png"],
    },
    {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["q1", "a1"]]},
    {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    {"prompt": "q", "completion": "a"},
    {"text": "一 document\n"},
]
VALUES = [
    None,
    True,
    0,
    1,
    -1,
    0.5,
    "",
    " ",
    "x",
    "{",
    "[]",
    "{}",
    [],
    {},
    [[]],
    [None],
    {"role": "user"},
    "user",
]
SCRAPS = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\",
    "\n",
    " ",
    "NaN",
    "\\ud800",
    "\0",
    "é",
    "1e999",
    "\r\n",
    "\ufeff",
]


def spoil_value(random: Random, value: Any) -> Any:
    """`value` with one thing in it replaced, removed, renamed or doubled."""
    if random.random() < 0.1 or not isinstance(value, dict | list) or not value:
        return random.choice(VALUES)
    if isinstance(value, list):
        at = random.randrange(len(value))
        part = random.choice([[], [value[at]] * 2, *[[spoil_value(random, value[at])]] * 4])
        return [*value[:at], *part, *value[at + 1 :]]
    key = random.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    renamed = random.choice([*value, "role", "extra", key.upper()])
    return random.choice(
        [rest, {**rest, renamed: value[key]}, *[{**value, key: spoil_value(random, value[key])}] * 4]
    )


def spoil_text(random: Random, text: str) -> bytes:
    """`text` as bytes, cut off, or with something put in, left out or written over."""
    content = text.encode()
    at = random.randrange(len(content))
    scrap = random.choice([random.choice(SCRAPS).encode(), bytes([random.randrange(256)])])
    return random.choice(
        [content[:at], content[:at] + scrap + content[at:], content[:at] + scrap + content[at + 1 :]]
    )


def as_table(record: dict[str, Any], separator: str) -> str:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator)
    writer.writerow(record)
    writer.writerow([v if isinstance(v, str) else json.dumps(v) for v in record.values()])
    return written.getvalue()


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "a.jsonl": lambda record: json.dumps(record, ensure_ascii=False) + "\n",
    "b.json": lambda record: json.dumps([record, record], ensure_ascii=False, indent=2),
    "c.json": lambda record: json.dumps([record]),
    "d.csv": lambda record: as_table(record, ","),
    "e.tsv": lambda record: as_table(record, "\t"),
}


def spoilt_file(random: Random, folder: Path) -> Path:
    name, write = random.choice(list(WRITERS.items()))
    record = random.choice(GOOD)
    in_value = random.random() < 0.6
    spoilt = spoil_value(random, record) if in_value else record
    text = write(spoilt if isinstance(spoilt, dict) and spoilt else record)
    path = folder / name
    path.write_bytes(text.encode() if in_value else spoil_text(random, text))
    return path


def assert_refused_by_place(path: Path, problem: str) -> None:
    found = re.fullmatch(re.escape(str(path)) + r":(\d+)(?::(\d+))?: E\d{3} \S.*", problem)
    assert found, problem
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    line, column = int(found[1]), int(found[2] or 0)
    assert 1 <= line <= len(lines), problem
    assert column <= len(lines[line - 1]) + 1, problem
    assert column or path.suffix in (".csv", ".tsv"), problem


@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=pytest.mark.long)])
def test_a_spoilt_record_is_read_or_refused_with_its_place_and_code(tmp_path, count):
    random = Random(1)
    seen = Counter[str]()
    for _ in range(count):
        path = spoilt_file(random, tmp_path)
        intake = Intake(path)
        for _, read in intake.conversations():
            seen["read"] += 1
            seen.update(remark.code for remark in ([] if isinstance(read, PlainText) else review(read)))
        for problem in intake.problems:
            seen[problem.code] += 1
            assert_refused_by_place(path, str(problem))
    assert seen["read"] > count / 5 and seen.total() - seen["read"] > count / 5
    assert len(seen) > 35, seen


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("record", GOOD, ids=lambda record: next(iter(record)))
def test_what_is_spoilt_here_is_good_before(tmp_path, name, record):
    if name[0] in "de" and isinstance(record.get("prompt"), list):
        record = {"prompt": "q", "completion": "a"}  # in a table a prompt is a text
    (tmp_path / name).write_text(WRITERS[name](record), encoding="utf-8", newline="")
    intake = Intake(tmp_path / name)
    assert len(list(intake.conversations())) == intake.rows > 0, intake.problems

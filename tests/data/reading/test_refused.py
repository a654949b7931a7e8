"""Every line of refused.txt is said of the file above it, and nothing else is."""

from pathlib import Path
from typing import NamedTuple

import pytest

from finetune.data.checking.problems import pages
from finetune.data.reading.intake import Intake


class Case(NamedTuple):
    """A file, and what is said of it: (place, code, words of the reason)."""

    name: str
    content: str
    told: list[tuple[str, str, str]]


def cases() -> list[Case]:
    found: list[Case] = []
    name, content, told = "", "", []
    for line in Path(__file__).with_name("refused.txt").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("## "):
            name, content = line[3:].partition(":")[0], ""
        elif line.startswith("=> "):
            place, code, words = line[3:].strip().split(" ", 2)
            told.append((place.removesuffix(":"), code, words))
        elif told:  # the blank line behind a case
            found.append(Case(name, content, told))
            content, told = "", []
        elif not line.startswith("# "):
            content += line if content or line.strip() else ""
    return [*found, Case(name, content, told)] if told else found


CASES = cases()


def refusals(path: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """How many records are good, and what is said of the others."""
    intake = Intake(path)
    good = sum(1 for _ in intake.conversations())
    return good, [
        (str(problem)[len(f"{path}:") :].partition(": ")[0], problem.code, problem.reason)
        for problem in intake.problems
    ]


def agree(said: list[tuple[str, str, str]], told: list[tuple[str, str, str]]) -> bool:
    same = [
        place == where and code == name for (place, code, _), (where, name, _) in zip(said, told, strict=False)
    ]
    words = [want in reason for (_, _, reason), (_, _, want) in zip(said, told, strict=False)]
    return len(said) == len(told) and all(same) and all(words)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name[6:]}: {case.content[:60]}".strip())
def test_a_bad_file_is_refused_at_the_place_for_the_reason_that_the_table_gives(tmp_path, case):
    (tmp_path / case.name).write_text(case.content, encoding="utf-8")
    _, said = refusals(tmp_path / case.name)
    assert agree(said, case.told), said


def test_all_mistakes_of_a_file_are_found_and_every_good_record_between_them_is_read(tmp_path):
    good = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    bad = [case for case in CASES if case.content.startswith('{"messages"') and case.content.count("\n") == 1]
    assert len(bad) > 60
    path = tmp_path / "train.jsonl"
    path.write_text(good + "".join(case.content + good for case in bad), encoding="utf-8")
    read, said = refusals(path)
    told = [
        (f"{2 * number}:{place.partition(':')[2]}", code, words)
        for number, case in enumerate(bad, 1)
        for place, code, words in case.told
    ]
    assert read == len(bad) + 1
    assert agree(said, told), said


def test_the_table_has_a_case_for_nearly_every_code():
    """The others need bytes, a damaged file, an image or a model; they have tests of their own."""
    missing = {"E101", "E102", "E103", "E111", "E114", "E115", "E120", "E301", "E302", "E401"}
    missing |= {f"E31{number}" for number in range(1, 9)}
    told = {code for case in CASES for _, code, _ in case.told}
    assert told == {code for code in pages() if code.startswith("E")} - missing

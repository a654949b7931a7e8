"""The mutants can be applied; and, in the long suite, a test notices each of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, CannotTellError, attempt, checkout_as_it_is, try_all
from tests.mutants.mutants import MUTANTS, Mutant

PLAN = "tests/data/test_plan.py"


@pytest.fixture
def copy() -> Iterator[Path]:
    """Of this checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    with checkout_as_it_is() as folder:
        yield folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_is_still_a_program(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_are_to_notice_a_mutant_are_there(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}" in text, test


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 28


def test_the_page_tells_of_every_mutant_and_of_no_other() -> None:
    lines = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and not line.startswith("| mutant")]
    told = [(row[0].removeprefix("| "), row[1], row[2].strip("`")) for row in rows]
    assert told == [(mutant.name, mutant.what, mutant.file) for mutant in MUTANTS]


@pytest.mark.nightly
def test_what_is_tested_is_the_copy(copy: Path) -> None:
    """Another checkout on the path would make every result a lie, so pytest does not even begin."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.inside", "--collect-only", PLAN]
    here = {**os.environ, "PYTHONPATH": str(copy)}
    assert subprocess.run(command, cwd=copy, env=here, capture_output=True, check=False).returncode == 0
    (copy / "finetune").rename(copy / "elsewhere")
    there = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=copy, env=there, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "would be tested, not the copy" in done.stderr


@pytest.mark.nightly
def test_a_mutant_is_noticed_or_survives_or_is_no_mutant(copy: Path) -> None:
    plan, test = "finetune/data/plan.py", f"{PLAN}::test_max_steps_rules_over_epochs"

    def noticed_by(old: str, new: str) -> str | None:
        return attempt(copy, Mutant("made up", "", plan, old, new, (test,))).noticed_by

    assert noticed_by("        return max_steps\n", "        return max_steps + 1\n") == f"{test}[7-3.0-7]"
    assert noticed_by("_GOLDEN = 0x9E3779B97F4A7C15", "_GOLDEN = 1") is None
    with pytest.raises(CannotTellError, match="pytest ended with"):
        noticed_by("import heapq\n", "import heapq_\n")


@pytest.mark.long
def test_every_mutant_is_noticed() -> None:
    survivors = [result.mutant.name for result in try_all(MUTANTS) if result.noticed_by is None]
    assert survivors == []

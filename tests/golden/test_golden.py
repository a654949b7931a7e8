"""The golden pages are what the code renders today."""

from difflib import unified_diff

import pytest

from tests.chat.conftest import make_family
from tests.golden import table
from tests.golden.pages import HERE, SHOWN, page


@pytest.mark.parametrize("name", SHOWN)
def test_every_data_example_is_rendered_as_its_golden_page_says(name: str) -> None:
    written = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    rendered = page(name, make_family(name))
    difference = unified_diff(written.splitlines(), rendered.splitlines(), f"{name}.txt", "now", lineterm="")
    shown = "\n".join(difference)
    assert not shown, f"wanted? python -m tests.golden writes the pages anew\n{shown}"


def test_there_is_a_page_for_every_family_and_none_besides() -> None:
    assert sorted(path.stem for path in HERE.glob("*.txt")) == SHOWN


def test_the_table_of_families_is_what_they_do_today() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run: python -m tests.golden"

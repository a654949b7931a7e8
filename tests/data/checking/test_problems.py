"""Each code has a page, each page a code; and the examples on the pages are what they say."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import finetune
from finetune.cli import app
from finetune.data.checking.problems import pages
from finetune.data.checking.review import review
from finetune.data.reading.intake import Intake
from finetune.errors import DataError

EXAMPLE = re.compile(r"^```(jsonl|json|csv|txt)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SOURCE = Path(finetune.__file__).parent


def codes_in_source() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    return {code for text in texts for code in re.findall(r'"([EW]\d{3})"', text)}


def examples() -> list[tuple[str, str, str, str, str]]:
    """(code, ending, bad, ending, mended) of each page that shows a file."""
    found = []
    for code, page in pages().items():
        shown = EXAMPLE.findall(page)
        if shown:
            (ending, bad), (another, mended) = shown
            found.append((code, ending, bad, another, mended))
    return found


def codes_of(path: Path, content: str) -> list[str]:
    """What is said of a file: the codes of what is refused, and of what is remarked on."""
    path.write_text(content, encoding="utf-8")
    intake = Intake(path)
    remarks = [remark.code for _, source in intake.conversations() for remark in review(source)]
    unread = [finding.code for finding in intake.unread.findings()]
    return [problem.code for problem in intake.problems] + remarks + unread


def test_every_code_has_a_page_and_every_page_a_code():
    assert codes_in_source() == set(pages())


def test_pages_stand_in_the_order_of_their_codes():
    assert list(pages()) == sorted(pages())


@pytest.mark.parametrize(
    ("code", "ending", "bad", "another", "mended"), examples(), ids=lambda value: value[:4]
)
def test_the_example_of_a_page_has_its_mistake_and_the_mended_one_has_none(
    tmp_path, code, ending, bad, another, mended
):
    assert codes_of(tmp_path / f"bad.{ending}", bad)[:1] == [code]
    assert codes_of(tmp_path / f"good.{another}", mended) == []


def test_nearly_every_page_has_an_example_that_is_run():
    told = {code for code, *_ in examples()}
    bytes_or_templates = {"E101", "E102", "E103", "E111", "E114", "E115", "E120", "E301", "E302", "E401"}
    images = {f"E31{number}" for number in range(9)}  # images/test_pages.py and test_pictures.py run theirs
    several_rows_or_limits = {
        "W501",
        "W502",
        "W503",
        "W504",
        "W505",
        "W506",
        "W532",
    }  # test_check.py has them all
    assert set(pages()) - told == bytes_or_templates | images | several_rows_or_limits


def test_docs_prints_a_page_and_lists_the_titles():
    page = CliRunner().invoke(app, ["docs", "e207"])
    assert page.exit_code == 0 and page.output.startswith("E207 a tool result without a call\n")
    assert "\n\nW524 arguments" in CliRunner().invoke(app, ["docs", "E207", "W524"]).output
    assert CliRunner().invoke(app, ["docs"]).output.splitlines()[0] == "E101 bytes that are not UTF-8"


def test_docs_of_an_unknown_code_suggests_the_nearest():
    failed = CliRunner().invoke(app, ["docs", "E27"])
    assert isinstance(failed.exception, DataError) and failed.exception.exit_code == 2
    assert "E27: no mistake has this code; did you mean E2" in str(failed.exception)

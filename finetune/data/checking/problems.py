"""What each code of a mistake means: the pages of problems.md, which `finetune docs` prints."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from finetune.errors import DataError

_PAGES = Path(__file__).with_name("problems.md")


@cache
def pages() -> Mapping[str, str]:
    """Code -> its page, which begins with the code and a title."""
    _, *sections = _PAGES.read_text(encoding="utf-8").split("\n## ")
    return {section.split(" ", 1)[0]: section.strip() for section in sections}


def titles() -> list[str]:
    """Each code with its title, a line each."""
    return [page.splitlines()[0] for page in pages().values()]


def page(code: str) -> str:
    """The page of a code, in either case. Raises DataError, with the nearest codes, if there is none."""
    found = pages().get(code.upper())
    if found is not None:
        return found
    near = get_close_matches(code.upper(), pages(), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`finetune docs` lists them all"
    raise DataError(f"{code}: no mistake has this code; {hint}")

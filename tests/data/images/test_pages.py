"""The examples on the pages of E310 to E317 are what they say: a record's path, or code that writes a file."""

import json
import os
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from finetune.chat.messages import Image
from finetune.data.checking.problems import pages
from tests.data.images.bad_images import every_case, told
from tests.data.images.files import whole

EXAMPLE = re.compile(r"^```(text|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODES = [f"E31{number}" for number in range(8)]


def told_of(language: str, example: str, folder: Path) -> str:
    """The code that an example's image has in `folder`; "" for a good one."""
    if language == "text":
        return told(Image(json.loads(example)["messages"][0]["image"]), folder)[0]
    exec(example, {"Image": PIL.Image, "Path": Path, "np": np, "os": os})
    (written,) = (path for path in folder.iterdir() if path.is_file())
    return told(Image(str(written)), folder)[0]


@pytest.mark.parametrize("code", CODES)
def test_the_example_of_a_page_is_refused_and_the_mended_one_is_not(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "cat.jpg").write_bytes(whole()["jpeg"])
    monkeypatch.chdir(folder)
    bad, mended = EXAMPLE.findall(pages()[code])
    assert [told_of(*bad, folder), told_of(*mended, folder)] == [code, ""]


def test_every_code_stands_in_the_table_of_bad_images() -> None:
    assert {case.code for case in every_case()} == set(CODES)

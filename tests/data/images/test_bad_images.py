"""Every image that cannot be used is refused, with its code and its reason."""

import os
from pathlib import Path

import pytest

from finetune.chat.messages import Image
from tests.data.images.bad_images import Case, every_case, told
from tests.data.images.files import whole

CASES = list(every_case())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_cannot_be_used_is_refused_with_its_reason(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    code, reason = told(case.make(folder), folder)
    assert (code, case.words in reason) == (case.code, True), reason


def test_a_file_of_somebody_else_cannot_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "cat.png").write_bytes(whole()["png"])
    (tmp_path / "cat.png").chmod(0)
    image, root = Image("cat.png"), os.geteuid() == 0
    if root:  # who may read everything
        for folder in tmp_path.parents[:3]:
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        code, reason = told(image, tmp_path)
    finally:
        if root:
            os.seteuid(0)
    assert (code, reason) == ("E312", f"{tmp_path}/cat.png: cannot be read: Permission denied")

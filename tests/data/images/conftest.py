"""Looking at the bytes of an image as at a file beside the data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.chat.messages import Image
from finetune.data.images.access import Access, settled
from finetune.data.images.look import look
from finetune.data.images.picture import Picture

Looked = Callable[[bytes], Picture]


@pytest.fixture
def looked_at(tmp_path: Path) -> Looked:
    """Write bytes to a new file and look at it."""
    count = 0

    def looked(content: bytes) -> Picture:
        nonlocal count
        count += 1
        (tmp_path / f"{count}.img").write_bytes(content)
        return look(settled(Image(f"{count}.img"), tmp_path, Access(())))

    return looked

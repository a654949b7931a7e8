"""Paths whose bytes are no UTF-8 are told before any work where a file or a library cannot hold them."""

import os
import shutil
from pathlib import Path

import pytest

from finetune.chat.load import load_tokenizer
from finetune.disk import is_utf8
from finetune.errors import ConfigError, ModelError
from finetune.export.merge import merge
from finetune.init.story import init
from finetune.model.tiny import make_tiny

ROWS = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name is Latin-1, with a model and data in it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9"))
    folder.mkdir()
    shutil.copytree(make_tiny(tmp_path / "model"), folder / "model")
    (folder / "train.jsonl").write_text(ROWS)
    return folder


@pytest.mark.parametrize(
    ("name", "holds"), [("目录", True), (os.fsdecode(b"b\xe9"), False), (os.fsdecode("é".encode()), True)]
)
def test_what_is_utf_8(name: str, holds: bool) -> None:
    assert is_utf8(name) is holds


def test_a_tokenizer_there_is_not_called_damaged(odd: Path) -> None:
    with pytest.raises(ModelError, match="not UTF-8"):
        load_tokenizer(odd / "model")


def test_merge_refuses_a_folder_that_weights_cannot_be_written_to(odd: Path) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        merge("nothing", odd / "merged")


@pytest.mark.parametrize("what", ["data", "model", "output"])
def test_init_writes_no_yaml_that_nobody_can_read(odd: Path, tmp_path: Path, what: str) -> None:
    shutil.copy(odd / "train.jsonl", tmp_path / "train.jsonl")
    places = {"data": tmp_path / "train.jsonl", "model": tmp_path / "model", "output": tmp_path / "f.yaml"}
    places[what] = odd / places[what].name
    with pytest.raises(ConfigError, match="not UTF-8"):
        init(places["data"], str(places["model"]), places["output"], "lora")
    assert not places["output"].exists()

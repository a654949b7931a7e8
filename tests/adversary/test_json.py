"""JSON files of strangers that no reader can use: each is refused by name and place, whoever meets it first."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetune.base import base_identity
from finetune.chat.load import load_template
from finetune.config.schema import ModelConfig
from finetune.errors import FinetuneError
from finetune.estimate.shape import read_shape
from finetune.folder import read_run
from finetune.manifest import read_manifest
from finetune.model.load import load_base
from finetune.model.tuning import read_adapter_settings
from finetune.plain_json import DEEPEST, LARGEST, BadJSONError, check_json_files, parse_json, read_json
from finetune.weights import indexed_files

DAMAGES = {
    "deeper than Python reads": b"[" * 100_000,
    "objects deeper than Python reads": b'{"a":' * 100_000,
    "deep": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    "cut": b'{"a": 1,\n "b": ',
    "two values": b"{} {}",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "empty": b"",
    "a list": b"[1]",
    "a text": b'"a"',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "larger than any": b" " * (LARGEST + 1),
}
OF_A_MODEL = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


def load_model(folder: Path) -> object:
    return load_base(folder, ModelConfig(), device=torch.device("cpu"))


READERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "the template": (load_template, (*OF_A_MODEL, "preprocessor_config.json", "chat_template.json")),
    "the model": (load_model, OF_A_MODEL),
    "the estimate": (read_shape, ("config.json",)),
    "a run": (read_run, ("run.json",)),
    "a manifest": (read_manifest, ("manifest.json",)),
    "an adapter": (read_adapter_settings, ("adapter_config.json",)),
    "an index": (lambda folder: indexed_files(folder / "index.json"), ("index.json",)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    ("read", "name"), [pytest.param(r, n, id=f"{k}: {n}") for k, (r, ns) in READERS.items() for n in ns]
)
def test_a_file_that_no_reader_can_use_is_refused_by_name(
    read: Callable[[Path], object], name: str, damage: bytes, small: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    (folder / name).write_bytes(damage)
    with pytest.raises(FinetuneError) as refused:
        read(folder)
    assert name in str(refused.value) and "\n" not in str(refused.value)
    assert not isinstance(refused.value.__cause__, RecursionError)


def test_the_place_is_told_where_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(DAMAGES["cut"])
    with pytest.raises(FinetuneError, match=r"config\.json:2:7: damaged: Expecting value; copy it again"):
        check_json_files(tmp_path)


def test_what_lies_at_the_limits_is_read(tmp_path: Path) -> None:
    nested = "[" * DEEPEST + "]" * DEEPEST
    assert str(parse_json(nested)) == nested
    with pytest.raises(BadJSONError, match=f"more than {DEEPEST} levels"):
        parse_json(f"[{nested}]")
    assert len(parse_json("[" + ",".join(["[[]]"] * 10_000) + "]")) == 10_000
    assert parse_json(b'\xef\xbb\xbf{"limit": Infinity}') == {
        "limit": float("inf")
    }  # as Mamba's config.json has it
    (tmp_path / "a.json").write_bytes(b"[" + b" " * (LARGEST - 2) + b"]")
    assert read_json(tmp_path / "a.json") == []


def test_a_damaged_header_of_a_weight_file_changes_no_more_than_the_identity(
    small: Path, tmp_path: Path
) -> None:
    """What holds no tensors is told when they are loaded; here it must only not fail."""
    folder = shutil.copytree(small, tmp_path / "model")
    header = b"[" * 100_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert base_identity(folder)

"""Loading from text, for the tests of the configuration. Line 1 of every file names the data."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from finetune.config.document import read_document
from finetune.config.json_schema import json_schema
from finetune.config.load import load_config
from finetune.config.schema import Config
from finetune.errors import ConfigError

DATA = "data_config: {train_file: train.jsonl, val_file: dev.jsonl, test_file: test.jsonl}\n"


@cache
def _validator() -> Draft7Validator:
    return Draft7Validator(json_schema())


def schema_mistakes(path: Path) -> list[str]:
    """What the JSON schema says against a YAML file."""
    return [
        f"{error.json_path}: {error.message}" for error in _validator().iter_errors(read_document(path).values)
    ]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """The Config of c.yaml, whose second line and following are `text`. The JSON schema must accept it, too."""

    def load_text(text: str = "", overrides: Sequence[str] = ()) -> Config:
        path = tmp_path / "c.yaml"
        path.write_text(f"{DATA}{text}\n", encoding="utf-8")
        config = load_config(path, overrides)
        assert schema_mistakes(path) == []
        return config

    return load_text


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that a file is refused with, its folder left out. `text` (or bytes) is the whole of c.yaml."""

    def refuse_file(text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as refused:
            load_config(path, overrides)
        return str(refused.value).replace(f"{tmp_path}/", "").splitlines()

    return refuse_file


@pytest.fixture
def mistakes(refusal: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """As `refusal`, for the second line and following."""

    def refuse_text(text: str = "", overrides: Sequence[str] = ()) -> list[str]:
        return refusal(f"{DATA}{text}\n", overrides)

    return refuse_text

"""A config.json whose numbers no model has is refused by its key, before anything is made of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.estimate.shape import read_shape
from finetune.model.load import read_model_config
from finetune.model.tiny import make_tiny

SIZES = [
    ("num_key_value_heads", 0),
    ("num_attention_heads", 0),
    ("head_dim", 0),
    ("hidden_size", -1),
    ("vocab_size", 0),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10**7),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("reader", [read_shape, lambda model: read_model_config(model, ModelConfig())])
@pytest.mark.parametrize(("key", "value"), SIZES)
def test_a_size_that_no_model_has_is_refused(
    base: Path, tmp_path: Path, key: str, value: int, reader: Callable[[Path], object]
) -> None:
    for file in base.iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    config = json.loads((base / "config.json").read_bytes())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=rf"config\.json.*{key} is {value}"):
        reader(tmp_path)

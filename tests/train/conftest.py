"""A run in a moment: a random two-layer GLM-4 and a dozen conversations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

WORDS = ["red", "blue", "green", "mill", "river", "stone", "bird", "rain", "桥", "山", "河", "雨"]


def rows(count: int) -> list[dict[str, Any]]:
    """Ragged conversations; every third has two turns."""
    made = []
    for i in range(count):
        words = [WORDS[(i * 5 + k) % len(WORDS)] for k in range(1 + i % 7)]
        turn = [
            {"role": "user", "content": f"say {' '.join(words)}"},
            {"role": "assistant", "content": " ".join(reversed(words))},
        ]
        again = [{"role": "user", "content": "again"}, {"role": "assistant", "content": " ".join(words)}]
        made.append({"messages": turn + (again if i % 3 == 0 else [])})
    return made


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random GLM-4 of two layers."""
    from finetune.model.tiny import make_tiny

    folder = tmp_path_factory.mktemp("small") / "model"
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    return make_tiny(folder, WORDS, vocab_size=320, **shape)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """DATA_DIR with train.jsonl (12 conversations) and dev.jsonl (4)."""
    return write_data(tmp_path)


def write_data(parent: Path) -> Path:
    folder = parent / "data"
    folder.mkdir()
    for name, count in (("train.jsonl", 12), ("dev.jsonl", 4)):
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count)))
    return folder


LORA = {"peft_type": "LORA", "r": 4, "lora_dropout": 0.2, "target_modules": ["query_key_value"]}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": True}

Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Write a YAML: `configure(peft, output, key=value …)`, the keys those of training_args."""
    return configure_in(tmp_path)


def configure_in(place: Path) -> Configure:
    def write(peft: dict[str, Any] | None, output: str = "out", **arguments: Any) -> Path:
        content: dict[str, Any] = {
            "data_config": {"train_file": "train.jsonl", "val_file": "dev.jsonl", "test_file": "dev.jsonl"},
            "training_args": {
                "output_dir": str(place / output),
                "max_steps": 6,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 0.01,
                "logging_steps": 1,
                "save_steps": 3,
                "generation_config": {"max_new_tokens": 4},
                **arguments,
            },
        }
        if peft is not None:
            content["peft_config"] = peft
        path = place / f"{output}.yaml"
        YAML().dump(content, path)
        return path

    return write

"""Runs on two processes, forked with everything imported; and what a checkpoint says of them."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import Tensor

from tests.ranks import run_ranks
from tests.train.conftest import rows

LORA = {
    "peft_type": "LORA",
    "r": 4,
    "lora_dropout": 0.0,
    "target_modules": ["query_key_value", "dense_4h_to_h"],
}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": True}
METHODS: dict[str, dict[str, Any] | None] = {"lora": LORA, "prefix": PREFIX, "full": None}
BACK_ENDS: dict[str, dict[str, Any]] = {
    "one process": {},
    "ddp": {},
    "zero-2": {"deepspeed": "ds_zero_2.json"},
    "zero-3": {"deepspeed": "ds_zero_3.json"},
    "fsdp2": {"fsdp": "full_shard auto_wrap"},
}

SHARED = [name for name in BACK_ENDS if name != "one process"]
"""Back ends of two processes."""

Train = Callable[..., Path]
STEPS, EVERY = 12, 3


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """What every child would otherwise import for itself."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    import deepspeed  # noqa: F401

    import finetune.train.parallel.fully_sharded
    import finetune.train.session  # noqa: F401


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    """DATA_DIR: 11 conversations of very different lengths, 5 to evaluate on."""
    return _ragged(tmp_path)


def _ragged(parent: Path) -> Path:
    folder = parent / "ragged"
    folder.mkdir()
    for name, count in (("train.jsonl", 11), ("dev.jsonl", 5)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count))
        (folder / name).write_text(lines)
    return folder


@pytest.fixture
def train_on(small: Path, ragged: Path, tmp_path: Path) -> Train:
    """`train_on(back_end, method, output, resume, **training_args)` trains and returns the run folder.

    A step is 5 conversations, so that the third of each epoch has only one: a process goes without.
    """
    return _trainer(small, ragged, tmp_path)


@pytest.fixture(scope="session")
def train_once(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train_once(back_end, method, **training_args)`: as `train_on`, but the same run is trained once.

    Its folder is for reading only: other tests look at it too.
    """
    place = tmp_path_factory.mktemp("once")
    train, done = _trainer(small, _ragged(place), place), dict[str, Path]()

    def once(back_end: str, method: str, **arguments: Any) -> Path:
        asked = json.dumps([back_end, method, arguments], sort_keys=True)
        if asked not in done:
            done[asked] = train(back_end, method, f"run-{len(done)}", "no", **arguments)
        return done[asked]

    return once


def _trainer(small: Path, ragged: Path, place: Path) -> Train:
    """What trains on `ragged` into folders of `place`."""

    def train(
        back_end: str,
        method: str,
        output: str,
        resume: str | None = None,
        *,
        run: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        test: bool = False,
        **arguments: Any,
    ) -> Path:
        content: dict[str, Any] = {
            "data_config": {"train_file": "train.jsonl", "val_file": "dev.jsonl"},
            "training_args": {
                "output_dir": str(place / output),
                "learning_rate": 0.01,
                "lr_scheduler_type": "constant",  # the rate of a step must not depend on how many will follow
                "adam_epsilon": 1e-3,  # with torch's 1e-8 Adam makes a step of what is only rounding
                "logging_steps": 1,
                **BACK_ENDS[back_end],
                **arguments,
            },
            "run": {"conversations_per_step": 5, **(run or {})},
        }
        if METHODS[method] is not None:
            content["peft_config"] = METHODS[method]
        if model:
            content["model_config"] = model
        if test:
            content["data_config"]["test_file"] = "dev.jsonl"
        path = place / f"{output}.yaml"
        YAML().dump(content, path)
        run_ranks(partial(_train, ragged, small, path, resume), 1 if back_end == "one process" else 2)
        return place / output

    return train


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Path]:
    """A YAML for a run of two processes; `configured(back_end, output, **training_args)`."""

    def configure(
        back_end: str,
        output: str = "out",
        method: str = "lora",
        run: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> Path:
        content: dict[str, Any] = {
            "data_config": {"train_file": "train.jsonl", "val_file": "dev.jsonl"},
            "peft_config": LORA | {"lora_dropout": 0.1} if method == "lora" else METHODS[method],
            "training_args": {
                "output_dir": str(tmp_path / output),
                "max_steps": STEPS,
                "save_steps": EVERY,
                "save_total_limit": 2,
                "logging_steps": 1,
                "learning_rate": 0.01,
                **BACK_ENDS[back_end],
                **arguments,
            },
            "run": {"conversations_per_step": 5, **(run or {})},
        }
        YAML().dump(content, tmp_path / f"{output}.yaml")
        return tmp_path / f"{output}.yaml"

    return configure


def _train(data: Path, model: Path, config: Path, resume: str | None) -> None:
    from finetune.train.run import train

    train(data, str(model), config, resume=resume)


def state_of(checkpoint: Path) -> dict[str, Tensor]:
    """Weights and optimizer memory of a checkpoint."""
    tensors = load_file(checkpoint / "training_state.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("rng/")}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all tensors together, relative to the length of `one`."""
    assert one.keys() == other.keys()
    apart = sum(float((one[n].double() - other[n].double()).square().sum()) for n in one)
    return float((apart / sum(float(one[n].double().square().sum()) for n in one)) ** 0.5)

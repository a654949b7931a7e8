"""The formula of a layer against what autograd keeps of one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config.schema import ModelConfig
from finetune.data.encode import Example
from finetune.estimate.activations import FLOAT32, layer_tensors, picture_bytes, tower_tensors
from finetune.estimate.setup import Load, Setup
from finetune.estimate.shape import read_shape
from finetune.model.batch import collate
from finetune.model.load import load_base
from finetune.model.tiny import random_glm, train_tokenizer
from finetune.train.trainee import make_trainee
from tests.estimate.test_counts import config_of
from tests.seeing import make_seeing

LORA = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
METHODS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": LORA,
    "lora on q, k, v": LORA | {"target_modules": ["query_key_value"]},
    "lora with dropout": LORA | {"lora_dropout": 0.1},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16},
}
LENGTH, COUNT = 64, 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GLM-4 of two layers, wide enough that weights are small beside activations, by dtype."""
    tokenizer, made = train_tokenizer(["some words"], 320), {}
    for name in ("float32", "bfloat16"):
        made[name] = tmp_path_factory.mktemp(name)
        model = random_glm(tokenizer, 0, {"num_hidden_layers": 2, "hidden_size": 64, "head_dim": 16})
        model.config.dtype = getattr(torch, name)
        model.to(getattr(torch, name)).save_pretrained(made[name])
    return made


def kept_bytes(objective: torch.nn.Module) -> int:
    """What layer 1 keeps of one batch, weights and their copies not counted."""
    inside, kept = [""], {}
    weights = {tuple(p.shape) for p in objective.parameters()}
    weights |= {shape[::-1] for shape in weights}
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    for name, module in objective.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: inside.append(name))
        module.register_forward_hook(lambda *_: (inside.pop(), None)[1])

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if re.search(r"layers\.1(\.|$)", inside[-1]) and tuple(tensor.shape) not in weights:
            kept.setdefault(storage.data_ptr(), storage)
        return tensor

    ids = np.arange(LENGTH, dtype=np.int32)
    batch = collate([Example(ids, ids >= LENGTH - 4)] * COUNT)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(batch)
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_formula_of_a_layer_is_what_autograd_keeps(
    method: str, dtype: str, folders: dict[str, Path]
) -> None:
    config, folder = config_of(METHODS[method], training_args={"use_cpu": True}), str(folders[dtype])
    trainee = make_trainee(config, folder, torch.device("cpu"), longest=LENGTH, total_steps=1)
    setup = Setup.of(config, read_shape(folder), device="cpu", ranks=1)
    tokens = LENGTH * COUNT
    load = Load(tokens, 4 * COUNT, COUNT, LENGTH, LENGTH)
    estimated = tokens * sum(map(sum, layer_tensors(setup, load).values()))
    assert estimated == pytest.approx(kept_bytes(trainee.objective.train()), rel=0.03)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["glm4v", "qwen2_5_vl", "qwen3_vl"])
def test_the_formula_of_a_tower_s_layer_is_what_autograd_keeps(family: str, dtype: str, tmp_path: Path) -> None:
    folder = make_seeing(tmp_path / family, family, dtype=getattr(torch, dtype))
    masters = {"master_weights": "split"} if dtype == "bfloat16" else {}
    setup = Setup.of(config_of(None, run=masters), read_shape(folder), device="cpu", ranks=1)
    tower = load_base(folder, ModelConfig(), device=torch.device("cpu")).base_model.visual.train()
    assert setup.shape.tower is not None
    kept: dict[int, int] = {}
    inside = [False]
    tower.blocks[1].register_forward_pre_hook(lambda *_: inside.append(True))
    tower.blocks[1].register_forward_hook(lambda *_: (inside.pop(), None)[1])
    own = {p.untyped_storage().data_ptr() for p in tower.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if inside[-1] and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side, width = 16, setup.shape.tower.pixels
    pixels = torch.randn(side * side, width, dtype=getattr(torch, dtype))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = tower(pixels, grid_thw=torch.tensor([[1, side, side]]))
    angles = 2 * FLOAT32 * setup.shape.tower.hidden // setup.shape.tower.heads  # of all layers, kept once
    estimated = sum(map(sum, tower_tensors(setup).values())) + angles
    assert made is not None
    assert estimated == pytest.approx(sum(kept.values()) / side**2, rel=0.03)


def test_a_tower_that_does_not_learn_keeps_one_layer_at_a_time(tmp_path: Path) -> None:
    shape = read_shape(make_seeing(tmp_path / "glm4v"))
    load = Load(64, 8, 1, 64, 64, patches=100)
    frozen, learns = (
        Setup.of(config_of(LORA, model_config={"freeze": freeze}), shape, device="cpu", ranks=1)
        for freeze in (None, [])
    )
    layer = sum(map(sum, tower_tensors(learns).values()))
    assert picture_bytes(learns, load) - picture_bytes(frozen, load) == pytest.approx(100 * layer, abs=1)
    assert picture_bytes(frozen, replace(load, patches=0)) == 0

"""Layers that keep less: the same values and gradients as transformers' own, and less that is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GlmConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from finetune.config.tuning import LoraTuning
from finetune.data.encode import Example
from finetune.model.attention import use_attention
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.layout import use_layout
from finetune.model.lean import Recipe, Shared, keep_less
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS: dict[str, type[PreTrainedConfig]] = {"llama": LlamaConfig, "glm": GlmConfig, "qwen3": Qwen3Config}
TUNINGS: dict[str, LoraTuning | None] = {
    "lora": LoraTuning(peft_type="LORA", r=4, target_modules="all-linear"),
    "dropout": LoraTuning(peft_type="LORA", r=4, lora_dropout=0.5, target_modules="all-linear"),
    "some": LoraTuning(peft_type="LORA", r=4, target_modules=["q_proj", "down_proj"]),
    "full": None,
}


def tuned_model(family: str, tuning: str) -> Tuned:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family](**SHAPE))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned = apply_tuning(model, TUNINGS[tuning])
    for name, parameter in tuned.trainable():
        if "lora_B" in name:  # they begin at zero, and A would get no gradient
            nn.init.normal_(parameter, std=0.1)
    return tuned


def batch() -> Any:
    ids = [np.arange(length, dtype=np.int32) * 7 % 64 for length in (19, 30, 5)]
    return collate([Example(each, np.ones(len(each), dtype=np.bool_)) for each in ids])


def loss_and_gradients(tuned: Tuned) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    use_layout(tuned, "flat")
    torch.manual_seed(1)
    loss = SupervisedLoss(tuned, flat=True).train()(batch())
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in tuned.trainable() if p.grad is not None}


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """The bytes of all different storages but weights that are kept while this is entered, in a list of one."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    found = [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        found[0] = sum(sizes.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_loss_and_gradients_are_those_of_the_stock_modules(family: str, tuning: str, recomputed: bool) -> None:
    stock, lean = tuned_model(family, tuning), tuned_model(family, tuning)
    keep_less(lean.model)
    if recomputed:
        lean.base.gradient_checkpointing_enable({"use_reentrant": False})
    (loss, gradients), (other, others) = loss_and_gradients(stock), loss_and_gradients(lean)
    assert loss.equal(other)
    assert gradients.keys() == others.keys() and gradients
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= 2e-6 * gradient.norm(), name


@pytest.mark.parametrize("family", ["llama", "glm"])
def test_less_is_kept(family: str) -> None:
    sizes = []
    for lean in (False, True):
        tuned = tuned_model(family, "lora")
        if lean:
            keep_less(tuned.model)
        use_layout(tuned, "flat")
        with kept_bytes(tuned.model) as found:
            loss = SupervisedLoss(tuned, flat=True).train()(batch())
        assert loss.requires_grad
        sizes.append(found[0])
    assert sizes[1] < 0.75 * sizes[0]


def test_norms_that_compute_otherwise_are_left_alone() -> None:
    config = Gemma2Config(**SHAPE, query_pre_attn_scalar=8)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    use_attention(model, "eager")
    ids = torch.arange(12)[None]
    before = model(ids).logits
    keep_less(model)
    assert model(ids).logits.equal(before)
    assert "forward" not in vars(model.model.norm)


class Gated(nn.Module):
    """A feed-forward layer of Llama's form; `limit`: what is larger is cut; `dropout` before the last."""

    def __init__(self, limit: float = float("inf"), dropout: float = 0.0) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.limit, self.dropout = limit, nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x).clamp(-self.limit, self.limit)
        return self.down_proj(self.dropout(nn.functional.silu(gate) * up))


@pytest.mark.parametrize(
    ("layer", "replaced"), [(Gated(), True), (Gated(limit=7.0), False), (Gated(dropout=0.1), False)]
)
def test_a_gated_layer_that_clamps_or_drops_keeps_its_own_forward(layer: Gated, replaced: bool) -> None:
    keep_less(nn.ModuleList([layer]))
    assert ("forward" in vars(layer)) is replaced


def test_what_is_not_float32_goes_the_module_s_own_way() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    norm, x = model.model.norm, torch.randn(1, 3, 32)
    wanted = norm(x.bfloat16())
    keep_less(model)
    assert norm(x.bfloat16()).equal(wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(x).grad_fn is None or "Norm" not in type(norm(x).grad_fn).__name__


def test_a_recipe_is_followed_once_for_all_who_need_it() -> None:
    made = []

    def make(x: torch.Tensor) -> torch.Tensor:
        made.append(x)
        return x + 1

    recipe = Recipe(make, (torch.ones(2),), Shared(users=3))
    for _ in range(3):
        assert recipe.shared.take(recipe.make, *recipe.of).equal(torch.full((2,), 2.0))
    assert len(made) == 1 and recipe.shared.made is None

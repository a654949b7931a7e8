"""Our LoRA layer computes what peft's does: values and gradients, and leaves to peft what is not plain LoRA."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from finetune.model.low_rank import LowRankLinear


class Chain(nn.Module):
    """Three linear layers one after another, with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(24, 40), nn.Linear(40, 16, bias=False), nn.Linear(16, 8)]  # r is 8: none is wider
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def pair(dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same adapted chain on peft's layer and on ours."""
    torch.manual_seed(0)
    base = Chain().to(dtype)
    stock_config = LoraConfig(target_modules=["0", "1", "2"], r=4, init_lora_weights=False, **options)
    ours_config = copy.deepcopy(stock_config)
    ours_config._register_custom_module({nn.Linear: LowRankLinear})
    stock = get_peft_model(copy.deepcopy(base), stock_config)
    ours = get_peft_model(copy.deepcopy(base), ours_config)
    ours.load_state_dict(stock.state_dict())
    assert {type(module) for module in ours.modules() if isinstance(module, Linear)} == {LowRankLinear}
    return stock, ours


def values_and_gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # the same dropout
    y = model(x)
    (y * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad} | found


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).norm() / other[n].norm()) for n in one)


@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.3}, {"use_rslora": True, "lora_alpha": 3}])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24), (1, 1, 24), (0, 24)])
def test_values_and_gradients_are_peft_s(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    stock, ours = pair(**options)
    x = torch.randn(shape)
    one, other = values_and_gradients(ours, x), values_and_gradients(stock, x)
    if not x.numel():
        assert all(torch.equal(one[name], other[name]) for name in other)
        return
    assert worst(one, other) < 2e-6


def test_in_bfloat16_it_is_as_near_to_float32_as_peft_s() -> None:
    wide = values_and_gradients(pair(lora_alpha=16)[0], x := torch.randn(64, 24))
    stock, ours = (values_and_gradients(m, x.bfloat16()) for m in pair(torch.bfloat16, lora_alpha=16))
    for name in wide:
        reference = wide[name]
        error = [float((found[name].float() - reference).norm() / reference.norm()) for found in (ours, stock)]
        assert error[0] < 2 * error[1] + 4e-3, name


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}],
    ids=["DoRA", "a bias of the adapter's own", "the layer's bias learns too"],
)
def test_what_is_not_plain_lora_is_peft_s_own(options: dict[str, Any]) -> None:
    stock, ours = pair(**options)
    x = torch.randn(6, 24)
    one, other = values_and_gradients(ours, x), values_and_gradients(stock, x)
    assert worst(one, other) < 2e-6


def test_merged_or_switched_off_it_is_peft_s_too() -> None:
    stock, ours = pair()
    x = torch.randn(6, 24)
    for model in (stock, ours):
        model.merge_adapter()
    assert torch.equal(ours(x), stock(x))
    for model in (stock, ours):
        model.unmerge_adapter()
    with stock.disable_adapter(), ours.disable_adapter():
        assert torch.equal(ours(x), stock(x))


def test_a_frozen_input_gets_no_gradient_computed() -> None:
    _, ours = pair()
    x = torch.randn(6, 24)
    ours(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for n, p in ours.named_parameters() if "lora" in n)

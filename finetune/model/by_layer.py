"""Weights that stay in 16 bits while all products are float32: each weight is widened while it is used.

For a processor that is slow in their dtype, where the whole model in float32 would not fit into memory. Only
matrices of linear layers stay narrow; embeddings, norms and whatever else has weights are widened once.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class ByLayerLinear(nn.Linear):
    """A linear layer whose frozen 16-bit weight is widened for each product; float32 in and out."""

    def forward(self, x: Tensor) -> Tensor:
        return widened_linear(x, self.weight, self.bias)


def is_by_layer(weight: Tensor, x: Tensor) -> bool:
    """Whether `weight` is narrower than what it is to be multiplied with, and stays so."""
    return weight.dtype in (torch.bfloat16, torch.float16) and x.dtype == torch.float32


def keep_narrow(model: nn.Module) -> None:
    """Let linear layers of a 16-bit model widen their weights as they are used; widen everything else now."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    narrow = {id(layer.weight) for layer in layers} - embeddings  # a tied head is an embedding
    for layer in layers:
        layer.__class__ = ByLayerLinear
    for parameter in model.parameters():
        if id(parameter) not in narrow and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(module, name, buffer.float())


def widened_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b in the dtype of x; the weight, if it is narrower, is frozen and has no gradient."""
    if not is_by_layer(weight, x):
        return linear(x, weight, bias)
    result: Tensor = _Widened.apply(x, weight, bias)
    return result


class _Widened(torch.autograd.Function):
    """Only the narrow weight is kept for the backward pass, where it is widened again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        if not x.numel():
            return x.new_empty(*x.shape[:-1], weight.shape[0])
        return linear(x, weight.float(), None if bias is None else bias.float())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = cast(tuple[Tensor], ctx.saved_tensors)
        return slope @ weight.float(), None, None

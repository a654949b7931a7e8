"""Causal attention over a flat batch in float32 on a CPU: torch's kernel, with one result for the whole row.

What torch's own function gives of each conversation would be copied into the row, and kept a second time for
the backward pass.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def is_joined(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether it can be computed here: a prefix needs a mask, and autocast another dtype."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (query, key, value))
    return plain and key.shape[2] == query.shape[2] and not torch.is_autocast_enabled("cpu")


def joined_attention(
    query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int], scaling: float
) -> Tensor:
    """Attention within each conversation of a row, without a prefix. As `flat_attention`'s."""
    result: Tensor = _Joined.apply(query, key, value, borders, scaling)
    return result


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int], scaling: float
    ) -> Tensor:
        result = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        sums = []
        for some in _conversations(borders):
            part, log_sum = _forward(
                query[:, :, some], key[:, :, some], value[:, :, some], 0.0, True, scale=scaling
            )
            result[:, some] = part.transpose(1, 2)
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, result, *sums)
        ctx.borders, ctx.scaling = borders, scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, *sums = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
        slope, result = slope.transpose(1, 2), result.transpose(1, 2)
        for some, log_sum in zip(_conversations(ctx.borders), sums, strict=True):
            given = [tensor[:, :, some] for tensor in (slope, query, key, value, result)]
            parts = _backward(*given, log_sum, 0.0, True, scale=ctx.scaling)
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[:, :, some] = part
        return *gradients, None, None


def _conversations(borders: Sequence[int]) -> Iterator[slice]:
    return (slice(start, stop) for start, stop in pairwise(borders))

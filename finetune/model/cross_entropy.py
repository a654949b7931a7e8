"""Cross-entropy and its gradient in one pass, without a copy of the logits in float32.

The loss is a sum, so its gradient is known but for one factor as soon as the logits are: it takes their place
in memory, and where the output layer is at hand, logits are only ever there for some rows at a time.

    hidden (K, H) --chunk--> logits (k, V) --block--> float32 (few, V) --> slope, in place --> (k, H)

Softmax and sums are float32, products are in the dtype of the logits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CHUNK_BYTES, CHUNK_BYTES_ON_CPU = 256 << 20, 64 << 20
"""Of logits that are there at once, where the output layer is at hand."""

BLOCK_BYTES, BLOCK_BYTES_ON_CPU = 128 << 20, 2 << 20
"""Of logits in float32: on a CPU what stays in a core's cache."""


def summed_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, row_weights: Tensor | None = None
) -> Tensor:
    """The sum over K rows of the cross-entropy of logits (K, V) against targets (K,): a scalar in float32.

    `smoothing`: torch's `label_smoothing`. `row_weights` (K,) float32: the factor of each row; None: 1.
    Where a gradient is asked for, the logits are overwritten with it.
    """
    total: Tensor = _OfLogits.apply(logits, targets, smoothing, row_weights)
    return total


def projected_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    row_weights: Tensor | None = None,
) -> Tensor:
    """The same for the logits `hidden @ weight.T`, hidden (K, H) and weight (V, H), which are never all there.

    The products are in the dtype of `hidden`, or under autocast in its dtype.
    """
    total: Tensor = _OfHidden.apply(hidden, weight, targets, smoothing, row_weights)
    return total


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, smoothing: float, row_weights: Tensor | None
    ) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return _loss(logits, targets, smoothing, row_weights, slope=False)
        ctx.slope = logits.detach()
        return _loss(ctx.slope, targets, smoothing, row_weights, slope=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        slope, ctx.slope = ctx.slope, None
        return slope.mul_(factor), None, None, None


class _OfHidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        row_weights: Tensor | None,
    ) -> Tensor:
        learns_hidden, learns_weight = ctx.needs_input_grad[:2]
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        narrow = weight.to(dtype)
        ctx.hidden = torch.empty_like(hidden) if learns_hidden else None
        ctx.weight = torch.zeros_like(weight, dtype=torch.float32) if learns_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        most = CHUNK_BYTES_ON_CPU if device == "cpu" else CHUNK_BYTES
        rows = max(1, most // (weight.shape[0] * narrow.element_size()))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), rows):
                some = slice(start, start + rows)
                inputs = hidden[some].to(dtype)
                slope = linear(inputs, narrow)
                factors = None if row_weights is None else row_weights[some]
                learns = learns_hidden or learns_weight
                total += _loss(slope, targets[some], smoothing, factors, slope=learns)
                if ctx.hidden is not None:
                    ctx.hidden[some] = slope @ narrow
                if ctx.weight is not None:
                    ctx.weight += slope.t() @ inputs
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, ctx.hidden, ctx.weight = ctx.hidden, ctx.weight, None, None
        return (
            None if hidden is None else hidden.mul_(factor),
            None if weight is None else weight.mul_(factor).to(ctx.dtype),
            None,
            None,
            None,
        )


def _loss(
    logits: Tensor, targets: Tensor, smoothing: float, row_weights: Tensor | None, *, slope: bool
) -> Tensor:
    """The summed cross-entropy; with `slope`, the logits become its gradient with respect to them."""
    words = logits.shape[1]
    most = BLOCK_BYTES_ON_CPU if logits.device.type == "cpu" else BLOCK_BYTES
    rows = max(1, most // (4 * words))
    total = logits.new_zeros((), dtype=torch.float32)
    factors = None if row_weights is None else row_weights[:, None].split(rows)
    for number, (block, some) in enumerate(zip(logits.split(rows), targets[:, None].split(rows), strict=True)):
        p = torch.softmax(block.float(), dim=1)
        # One exponential a word: the largest p tells by what all were divided.
        top, log_top = block.amax(1).float(), p.amax(1).log()
        losses = (1 - smoothing) * (top - block.gather(1, some)[:, 0].float() - log_top)
        if smoothing:
            losses += smoothing * (top - block.mean(1, dtype=torch.float32) - log_top)
        total += (losses if factors is None else losses * factors[number][:, 0]).sum()
        if slope:
            p.scatter_add_(1, some, p.new_full(some.shape, smoothing - 1))
            if smoothing:
                p.sub_(smoothing / words)
            block.copy_(p if factors is None else p.mul_(factors[number]))
    return total

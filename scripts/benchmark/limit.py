"""The machine's limit: the rate of the model's own matrix products, and what of it the training needs."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from scripts.benchmark.shapes import Shape

Clock = Callable[[], float]
_SECONDS = 0.25
"""For which each product is repeated."""


def flops(shape: Shape, lengths: Iterable[tuple[int, int]], method: str) -> float:
    """Operations of training on conversations of (supervised, tokens): 4·N + 4·H·s + attention for an adapter.

    Forward and the gradient of the inputs take 2 per weight and token each; weights that learn take 2 more.
    Causal attention: two products of half a square, three times. The adapter's own are not counted.
    """
    per_weight = 6 if method == "full" else 4
    total = 0.0
    for supervised, tokens in lengths:
        total += per_weight * (shape.layer_parameters * tokens + shape.head_parameters * supervised)
        total += 6 * shape.layers * shape.heads * shape.head_dim * tokens * (tokens + 1)
    return total


def peak(
    shape: Shape,
    tokens: int,
    supervised: int,
    device: str,
    clock: Clock = time.perf_counter,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """FLOP/s of the model's own products in `dtype`, forward and backward, weighted as a step weights them."""
    work = seconds = 0.0
    for rows, (inputs, outputs), times in _products(shape, tokens, supervised):
        taken = _time(rows, inputs, outputs, device, clock, dtype)
        work += times * 4 * rows * inputs * outputs
        seconds += times * taken
    return work / seconds


def _products(shape: Shape, tokens: int, supervised: int) -> Iterator[tuple[int, tuple[int, int], int]]:
    for matrix in shape.matrices:
        yield tokens, matrix, shape.layers
    yield supervised, (shape.hidden, shape.vocab), 1


def _time(rows: int, inputs: int, outputs: int, device: str, clock: Clock, dtype: torch.dtype) -> float:
    """Seconds of a product and of its input's gradient."""
    made: dict[str, Any] = {"dtype": dtype, "device": device}
    given, weight = torch.randn(rows, inputs, **made), torch.randn(outputs, inputs, **made)
    gradient = torch.randn(rows, outputs, **made)
    forward = _median(lambda: torch.nn.functional.linear(given, weight), device, clock)
    return forward + _median(lambda: gradient @ weight, device, clock)


@torch.no_grad()
def _median(product: Callable[[], torch.Tensor], device: str, clock: Clock) -> float:
    taken: list[float] = []
    product()
    until = clock() + _SECONDS
    while clock() < until or len(taken) < 3:
        _wait(device)
        began = clock()
        product()
        _wait(device)
        taken.append(clock() - began)
    return statistics.median(taken)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

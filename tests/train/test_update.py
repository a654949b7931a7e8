"""Gate, clip and step of one optimizer step."""

import math

import pytest
import torch
from torch import nn

from finetune.train.parallel.back_end import Update, apply_if_finite


def update(
    gradient: list[float], *, loss: float = 1.0, max_grad_norm: float = 0.0
) -> tuple[Update, nn.Parameter]:
    """What becomes of a weight of zeros, with plain steps of size 1."""
    weight = nn.Parameter(torch.zeros(len(gradient)))
    weight.grad = torch.tensor(gradient)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    return apply_if_finite([weight], optimizer, loss=loss, max_grad_norm=max_grad_norm), weight


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_is_left_out_where_the_loss_or_the_gradient_is_not_finite(bad: float) -> None:
    for taken, weight in (update([3.0, 4.0], loss=bad), update([3.0, bad]), update([bad, bad], loss=bad)):
        assert not taken.applied
        assert not weight.any() and weight.grad is None


@pytest.mark.parametrize(
    ("max_grad_norm", "step"), [(1.0, [0.6, 0.8]), (2.5, [1.5, 2.0]), (10.0, [3.0, 4.0]), (0.0, [3.0, 4.0])]
)
def test_a_gradient_is_shortened_to_the_limit_and_its_norm_is_told_as_it_was(
    max_grad_norm: float, step: list[float]
) -> None:
    taken, weight = update([3.0, 4.0], max_grad_norm=max_grad_norm)
    assert taken == Update(5.0, True)
    assert (-weight).tolist() == pytest.approx(step, rel=1e-5)

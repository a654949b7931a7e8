"""bfloat16 weights that learn as float32 ones: the arithmetic, and torch's AdamW as the judge of it."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from finetune.config.arguments import Optimizer
from finetune.errors import ConfigError
from finetune.train import masters
from finetune.train.masters import (
    BLOCK,
    NarrowAdamW,
    decode_positive,
    decode_signed,
    encode_positive,
    encode_signed,
    join,
    part,
    round_stochastically,
)
from finetune.train.optimizer import make_optimizer
from finetune.train.parallel.back_end import apply_if_finite


def bits(*patterns: int) -> torch.Tensor:
    return torch.tensor(patterns, dtype=torch.int64).to(torch.int32).view(torch.float32)


def taken_apart(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    high, low = torch.empty(values.shape, dtype=torch.bfloat16), torch.empty(values.shape, dtype=torch.int16)
    part(values, high, low)
    return high, low


def test_two_halves_are_the_float32_number_bit_for_bit() -> None:
    """All upper halves, with the lower halves at which rounding turns."""
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper + lower).to(torch.int32).view(torch.float32)
        joined = join(*taken_apart(values))
        assert torch.equal(joined.view(torch.int32), values.view(torch.int32))


@pytest.mark.parametrize(
    ("value", "high", "low"),
    [
        (bits(0x3F800000), 1.0, 0),  # 1 is a bfloat16
        (bits(0x3F800001), 1.0, 1),
        (bits(0x3F807FFF), 1.0, 0x7FFF),
        (bits(0x3F808000), 1.0078125, -0x8000),  # halfway: away from zero
        (bits(0x3F80FFFF), 1.0078125, -1),
        (bits(0xBF800001), -1.0, 1),  # the bits of a negative number count away from zero too
        (bits(0xBF808000), -1.0078125, -0x8000),
    ],
)
def test_the_upper_half_is_the_nearest_bfloat16(value: torch.Tensor, high: float, low: int) -> None:
    found = taken_apart(value)
    assert (found[0].item(), found[1].item()) == (high, low)


def test_the_upper_half_is_what_torch_rounds_to_but_for_halfway_cases() -> None:
    values = torch.randn(100_000)
    halfway = (values.view(torch.int32) & 0xFFFF) == 0x8000
    assert torch.equal(taken_apart(values)[0][~halfway], values[~halfway].bfloat16())


def weights(count: int = 3000) -> torch.Tensor:
    """That bfloat16 holds, so that both optimizers begin at the same."""
    return torch.randn(count, generator=torch.Generator().manual_seed(0)).bfloat16().float()


def gradients(count: int, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, generator=generator).bfloat16() * 10.0 ** -(k % 5) for k in range(steps)]


def narrow(values: torch.Tensor, **options: Any) -> tuple[nn.Parameter, NarrowAdamW]:
    parameter = nn.Parameter(values.bfloat16())
    settings = {"masters": "split", "eight_bit": False, "lr": 1e-3, "weight_decay": 0.1, **options}
    return parameter, NarrowAdamW([{"params": [parameter]}], **settings)


def train(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, given: list[torch.Tensor]) -> None:
    for gradient in given:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


def reference(values: torch.Tensor, given: list[torch.Tensor]) -> torch.Tensor:
    wide = nn.Parameter(values.clone())
    train(wide, torch.optim.AdamW([wide], lr=1e-3, weight_decay=0.1, foreach=False), given)
    return wide.detach()


@pytest.mark.parametrize("chunk", [1 << 24, 1024], ids=["at once", "in chunks"])
def test_split_weights_go_the_way_of_float32_ones_bit_for_bit(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masters, "CHUNK_ON_CPU", chunk)
    given = gradients(3000, 30)
    parameter, optimizer = narrow(weights())
    train(parameter, optimizer, given)
    master = join(parameter.detach(), optimizer.state[parameter]["low"])
    assert torch.equal(master, reference(weights(), given))
    assert not torch.equal(master, master.bfloat16().float())


def test_updates_too_small_for_bfloat16_are_kept_or_taken_on_average() -> None:
    """Weights of 1 and 300 updates of 1e-5: rounded to the nearest, each of them would be lost."""
    given = [torch.ones(2000)] * 300
    options = {"lr": 1e-5, "weight_decay": 0.0}
    split, optimizer = narrow(torch.ones(2000), **options)
    train(split, optimizer, given)
    master = join(split.detach(), optimizer.state[split]["low"])
    assert torch.allclose(master, torch.full((2000,), 1 - 300e-5), atol=1e-6)
    torch.manual_seed(0)
    drawn, optimizer = narrow(torch.ones(2000), masters="stochastic", **options)
    train(drawn, optimizer, given)
    assert drawn.float().mean().item() == pytest.approx(1 - 300e-5, abs=2e-4)
    nearest = nn.Parameter(torch.ones(2000, dtype=torch.bfloat16))
    train(nearest, torch.optim.AdamW([nearest], **options), given)
    assert (nearest == 1).all()


def test_stochastic_rounding_is_right_on_average_and_leaves_what_is_exact() -> None:
    torch.manual_seed(0)
    third = torch.full((200_000,), -1.0 / 3)
    rounded = round_stochastically(third)
    assert len(rounded.unique()) == 2
    assert rounded.float().mean().item() == pytest.approx(-1 / 3, rel=1e-5)
    exact = torch.randn(1000).bfloat16().float()
    assert torch.equal(round_stochastically(exact).float(), exact)


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK + 7])
def test_a_moment_in_8_bits_is_near_what_it_was(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(2)) * 1e-4
    blocks = -(-count // BLOCK)
    codes, scale = torch.empty(count, dtype=torch.int8), torch.empty(blocks)
    encode_signed(values, codes, scale)
    largest = values.abs().max()
    assert torch.allclose(decode_signed(codes, scale), values, rtol=0.3, atol=largest.item() * 1e-5)
    assert torch.equal(decode_signed(codes, scale).sign() * values.sign(), (codes != 0).float())
    positive = torch.empty(count, dtype=torch.uint8)
    encode_positive(values.square(), positive, scale)
    assert torch.allclose(decode_positive(positive, scale), values.square(), rtol=0.3, atol=1e-15)
    assert positive.min() >= 1


def test_what_has_never_moved_stays_zero_in_8_bits() -> None:
    parameter, optimizer = narrow(weights(600), eight_bit=True, weight_decay=0.0)
    train(parameter, optimizer, [torch.zeros(600)])
    assert torch.equal(parameter.float(), weights(600))
    assert not optimizer.state[parameter]["exp_avg"].any()


def test_8_bit_moments_stay_near_the_way_of_float32_ones() -> None:
    """Of the way that 100 steps take a weight, on the average; gradients with a direction and noise."""
    generator = torch.Generator().manual_seed(3)
    given = [(torch.randn(3000, generator=generator) + 0.5) * 1e-3 for _ in range(100)]
    parameter, optimizer = narrow(weights(), eight_bit=True)
    train(parameter, optimizer, given)
    found, right = join(parameter.detach(), optimizer.state[parameter]["low"]), reference(weights(), given)
    way = (right - weights()).norm()
    assert (found - right).norm() / way < 0.05


def test_a_gradient_that_is_shortened_is_shortened_in_float32() -> None:
    given = gradients(3000, 10)
    wide, (parameter, optimizer) = nn.Parameter(weights()), narrow(weights())
    judge = torch.optim.AdamW([wide], lr=1e-3, weight_decay=0.1, foreach=False)
    for gradient in given:
        wide.grad, parameter.grad = gradient.float(), gradient.clone()
        left = apply_if_finite([wide], judge, loss=1.0, max_grad_norm=0.5)
        right = apply_if_finite([parameter], optimizer, loss=1.0, max_grad_norm=0.5)
        assert right.grad_norm == pytest.approx(left.grad_norm, rel=1e-6)
        assert parameter.grad is None
    master = join(parameter.detach(), optimizer.state[parameter]["low"])
    assert torch.allclose(master, wide.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    parameter, optimizer = narrow(weights(10))
    parameter.grad = torch.ones(10, dtype=torch.bfloat16)
    parameter.grad[3] = bad
    assert not apply_if_finite([parameter], optimizer, loss=1.0, max_grad_norm=1.0).applied
    assert torch.equal(parameter.float(), weights(10)) and not optimizer.state[parameter]


def test_several_gradients_are_added_up_in_float32() -> None:
    """256 + 1 is no bfloat16."""
    parameter, optimizer = narrow(torch.ones(1))
    optimizer.add_gradients_in(torch.float32)
    for value in (256.0, *[0.5] * 8):
        (parameter * value).sum().backward()
    assert optimizer.has_gradients
    assert (parameter.grad.dtype, parameter.grad.item()) == (torch.float32, 260.0)
    optimizer.zero_grad()
    optimizer.add_gradients_in(torch.bfloat16)
    (parameter * 2).sum().backward()
    assert parameter.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "optim", "most"),
    [
        ("split", "adamw_8bit", 8.04),
        ("stochastic", "adamw_8bit", 6.04),
        ("split", "adamw_torch", 14.0),
        ("stochastic", "adamw_torch_fused", 12.0),
    ],
)
def test_a_number_that_learns_takes_so_many_bytes(kind: Any, optim: str, most: float) -> None:
    model = nn.Linear(1024, 512, bias=False).bfloat16()
    optimizer = make_optimizer(Optimizer(optim=optim), model.named_parameters(), kind)
    model(torch.ones(1, 1024, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    parameter = model.weight
    held = [parameter, parameter.grad, *optimizer.state[parameter].values()]
    total = sum(tensor.nbytes for tensor in held if tensor.numel() > 1)
    assert total / parameter.numel() == pytest.approx(most, abs=0.01)
    # A tensor as wide as all it was made of, kept by a view of it, would be counted by its own size only.
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in held)


def test_a_loss_falls_with_each_of_them() -> None:
    for kind in ("split", "stochastic"):
        for optim in ("adamw_torch", "adamw_8bit"):
            torch.manual_seed(0)
            model, inputs = nn.Linear(64, 64).bfloat16(), torch.randn(32, 64).bfloat16()
            section = Optimizer(optim=optim, learning_rate=0.05, weight_decay=0.01)
            optimizer = make_optimizer(section, model.named_parameters(), kind)  # type: ignore[arg-type]
            losses = []
            for _ in range(8):
                optimizer.zero_grad()
                loss = (model(inputs) - inputs).float().square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert losses[-1] < losses[0] and all(b < a * 1.2 for a, b in pairwise(losses))


def test_an_option_that_there_is_not_is_refused_by_name() -> None:
    section = Optimizer(optim="adamw_torch", optim_args="amsgrad=True")
    with pytest.raises(ConfigError, match=r"optim_args: adamw_torch: .*amsgrad"):
        make_optimizer(section, nn.Linear(2, 2).bfloat16().named_parameters(), "split")

"""Loss and gradient in one pass are torch's own, whatever the chunks."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from finetune.model import cross_entropy as module
from finetune.model.cross_entropy import projected_cross_entropy, summed_cross_entropy

K, H, V = 37, 16, 101


@pytest.fixture(params=[1, 5, 1000], ids=lambda rows: f"{rows} rows at once")
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "BLOCK_BYTES_ON_CPU", request.param * 4 * V)
    monkeypatch.setattr(module, "CHUNK_BYTES_ON_CPU", 2 * request.param * 4 * V)
    return request.param


@pytest.fixture
def hidden() -> torch.Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(K, H)).requires_grad_()


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(V, H).requires_grad_()


TARGETS = torch.arange(K) * 29 % V


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.detach() - other.detach()).norm() / other.detach().norm())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_of_logits(smoothing: float, rows: int, hidden: torch.Tensor, weight: torch.Tensor) -> None:
    expected = cross_entropy(linear(hidden, weight), TARGETS, reduction="sum", label_smoothing=smoothing)
    want = torch.autograd.grad(0.25 * expected, (hidden, weight))
    loss = summed_cross_entropy(linear(hidden, weight), TARGETS, smoothing)
    got = torch.autograd.grad(0.25 * loss, (hidden, weight))
    assert relative(loss, expected) < 1e-6
    assert max(map(relative, got, want)) < 2e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_of_the_output_layer(smoothing: float, rows: int, hidden: torch.Tensor, weight: torch.Tensor) -> None:
    expected = cross_entropy(linear(hidden, weight), TARGETS, reduction="sum", label_smoothing=smoothing)
    want = torch.autograd.grad(0.25 * expected, (hidden, weight))
    loss = projected_cross_entropy(hidden, weight, TARGETS, smoothing)
    got = torch.autograd.grad(0.25 * loss, (hidden, weight))
    assert relative(loss, expected) < 1e-6
    assert max(map(relative, got, want)) < 2e-6


def test_only_what_is_asked_for_gets_a_gradient(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    frozen = weight.detach()
    (got,) = torch.autograd.grad(projected_cross_entropy(hidden, frozen, TARGETS), hidden)
    (want,) = torch.autograd.grad(cross_entropy(linear(hidden, frozen), TARGETS, reduction="sum"), hidden)
    assert relative(got, want) < 2e-6
    assert not projected_cross_entropy(hidden.detach(), frozen, TARGETS).requires_grad


def test_logits_that_need_no_gradient_stay_as_they_are(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    logits = linear(hidden, weight).detach()
    before = logits.clone()
    loss = summed_cross_entropy(logits, TARGETS)
    assert torch.equal(logits, before)
    assert relative(loss, cross_entropy(before, TARGETS, reduction="sum")) < 1e-6


def test_no_rows_are_no_loss_and_a_gradient_of_zero(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    loss = projected_cross_entropy(hidden[:0], weight, TARGETS[:0])
    got = torch.autograd.grad(loss, (hidden, weight))
    assert float(loss.detach()) == 0
    assert not any(gradient.any() for gradient in got)


def test_in_bfloat16_the_loss_is_that_of_the_bfloat16_logits(
    rows: int, hidden: torch.Tensor, weight: torch.Tensor
) -> None:
    narrow = hidden.bfloat16(), weight.bfloat16()
    expected = cross_entropy(linear(*narrow).float(), TARGETS, reduction="sum")
    assert relative(projected_cross_entropy(*narrow, TARGETS), expected) < 1e-6


def test_under_autocast_the_products_are_its_own(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = cross_entropy(linear(hidden, weight).float(), TARGETS, reduction="sum")
        loss = projected_cross_entropy(hidden, weight, TARGETS)
    want = torch.autograd.grad(expected, (hidden, weight))
    got = torch.autograd.grad(loss, (hidden, weight))
    assert relative(loss, expected) < 1e-6
    assert {gradient.dtype for gradient in got} == {torch.float32}
    assert max(map(relative, got, want)) < 1e-2


def test_very_unlikely_targets_and_very_large_logits_stay_finite() -> None:
    logits = torch.zeros(2, V)
    logits[:, 0] = torch.tensor([3e4, -3e4])
    targets = torch.tensor([1, 0])
    want = cross_entropy(logits, targets, reduction="sum")
    loss = summed_cross_entropy(logits.requires_grad_() * 1, targets)
    (got,) = torch.autograd.grad(loss, logits)
    assert relative(loss, want) < 1e-6
    assert got.isfinite().all()


def test_a_device_that_is_neither_cpu_nor_cuda_has_its_loss_too() -> None:
    logits = torch.zeros(2, V, device="meta", requires_grad=True)  # nothing is computed there, all is called
    loss = summed_cross_entropy(logits * 1, torch.zeros(2, dtype=torch.int64, device="meta"), 0.1)
    (got,) = torch.autograd.grad(loss, logits)
    assert (loss.shape, got.shape) == ((), (2, V))

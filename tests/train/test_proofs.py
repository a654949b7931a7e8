"""A run proves that what shall learn does, and that what is frozen stays as it was to the bit."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune.config.tuning import LoraTuning, PrefixTuning
from finetune.errors import TrainingError
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from finetune.train.proofs import check_first_gradients, check_frozen, fingerprint_frozen


@pytest.fixture
def tuned(small: Path) -> Tuned:
    base = AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16)
    return apply_tuning(base, LoraTuning(peft_type="LORA", target_modules=["q_proj"]))


def gradients(tuned: Tuned) -> list[tuple[str, torch.Tensor | None]]:
    return [(name, parameter.grad) for name, parameter in tuned.trainable()]


def backward(tuned: Tuned) -> None:
    tuned.model(input_ids=torch.arange(20)[None]).logits.float().logsumexp(-1).sum().backward()


def test_a_lora_whose_first_half_has_no_gradient_yet_passes(tuned: Tuned) -> None:
    backward(tuned)
    zero = {name for name, parameter in tuned.trainable() if not parameter.grad.any()}
    assert zero == {name for name, _ in tuned.trainable() if "lora_A" in name}
    check_first_gradients(gradients(tuned))


def test_a_trainable_weight_that_no_gradient_reaches_is_named(tuned: Tuned) -> None:
    backward(tuned)
    name, parameter = list(tuned.trainable())[1]
    parameter.grad = None
    with pytest.raises(TrainingError, match=f"{name}: no gradient reached"):
        check_first_gradients(gradients(tuned))


def test_a_gradient_that_is_not_finite_is_left_to_the_gate_which_knows_the_rows(tuned: Tuned) -> None:
    backward(tuned)
    for _, parameter in tuned.trainable():
        parameter.grad.fill_(float("nan"))
    check_first_gradients(gradients(tuned))


def test_gradients_that_are_all_zero_mean_that_nothing_is_learnt(small: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(small)
    tuned = apply_tuning(base, PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=2))
    for _, parameter in tuned.trainable():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(TrainingError, match="nothing would be learnt"):
        check_first_gradients(gradients(tuned))


def test_gradients_are_looked_at_one_at_a_time() -> None:
    """Each may have been put together from all processes for it: together they are as large as the model."""
    alive: list[weakref.ref[torch.Tensor]] = []

    def one_after_the_other() -> Iterator[tuple[str, torch.Tensor | None]]:
        for number in range(4):
            assert sum(gradient() is not None for gradient in alive) <= 1
            gradient = torch.full((3,), float(number))
            alive.append(weakref.ref(gradient))
            yield str(number), gradient
            del gradient

    check_first_gradients(one_after_the_other())
    assert len(alive) == 4


def test_frozen_weights_that_stayed_pass(tuned: Tuned) -> None:
    before = fingerprint_frozen(tuned)
    for _, parameter in tuned.trainable():
        parameter.data += 1
    check_frozen(tuned, before)


CHANGES = ["one bit", "a sign of zero", "a swap", "a swap of two signs", "at the end", "moved by one"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_weight_that_changed_is_named(change: str, tuned: Tuned) -> None:
    name, parameter = next((n, p) for n, p in tuned.frozen() if "down_proj" in n)
    parameter.data[0, 0] = 0.0
    parameter.data.view(-1)[:12] = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, -3])
    before = fingerprint_frozen(tuned)
    flat = parameter.data.view(-1)
    match change:
        case "one bit":
            flat.view(torch.int16)[77] ^= 1
        case "a sign of zero":
            flat[0] = -0.0
        case "a swap":
            flat[[5, 6]] = flat[[6, 5]]
        case "a swap of two signs":  # the topmost bits of two words of 64 bits, which are else the same
            flat[[3, 11]] *= -1
        case "at the end":
            flat[[-1, -2]] = flat[[-2, -1]]
        case "moved by one":
            flat.copy_(flat.roll(1))
    with pytest.raises(TrainingError, match=f"{name}: these weights are frozen, and training changed them"):
        check_frozen(tuned, before)


@pytest.mark.parametrize(("one", "other"), [(0, 4096), (5, 3 * 4096 + 1), (2 << 20, 4096 * 1024 + 7)])
def test_a_swap_far_apart_is_noticed(one: int, other: int) -> None:
    weight = torch.nn.Parameter(torch.zeros((1 << 22) + 100, dtype=torch.bfloat16), requires_grad=False)
    weight.data[one] = 1.0
    tuned = Tuned(torch.nn.ParameterDict({"w": weight}), "full", torch.float32)  # type: ignore[arg-type]
    before = fingerprint_frozen(tuned)
    weight.data[[one, other]] = weight.data[[other, one]]
    with pytest.raises(TrainingError, match="w: these weights are frozen"):
        check_frozen(tuned, before)


def test_a_single_byte_at_the_end_counts_too() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    module = torch.nn.ParameterDict({"w": weight})
    tuned = Tuned(module, "full", torch.float32)  # type: ignore[arg-type]
    before = fingerprint_frozen(tuned)
    weight.data[2] = 1
    with pytest.raises(TrainingError, match="w: these weights are frozen"):
        check_frozen(tuned, before)

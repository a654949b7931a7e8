"""Each optimizer by its name trains; decay spares biases and norms; the schedule is transformers'."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from finetune.config.arguments import Optimizer, Schedule, count_steps
from finetune.errors import ConfigError
from finetune.model.tuning import apply_tuning
from finetune.train.optimizer import make_optimizer, make_schedule

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
NAMES = get_args(Optimizer.model_fields["optim"].annotation)


def section(**fields: Any) -> Optimizer:
    return Optimizer(**{"learning_rate": 0.05, **fields})


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_lowers_a_loss_on_this_machine(name: str) -> None:
    if "8bit" in name:
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model, inputs = nn.Linear(64, 64), torch.randn(32, 64)  # 4096 weights: enough for an 8-bit block
    optimizer = make_optimizer(section(optim=name, weight_decay=0.01), model.named_parameters())
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(inputs) - inputs).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [name for name in NAMES if "8bit" in name])
def test_the_8_bit_optimizers_keep_8_bits(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    model = nn.Linear(64, 64, bias=False)
    optimizer = make_optimizer(section(optim=name), model.named_parameters())
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    [state] = optimizer.state.values()
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8


def test_biases_and_norms_are_not_decayed(small: str) -> None:
    tuned = apply_tuning(AutoModelForCausalLM.from_pretrained(small), None)
    optimizer = make_optimizer(section(weight_decay=0.1), tuned.trainable())
    names = {id(parameter): name for name, parameter in tuned.trainable()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(name.endswith(".bias") or "norm" in name for name in spared)
    assert not any(name.endswith(".bias") or "norm" in name for name in decayed)
    assert len(decayed) + len(spared) == len(names)


def test_what_is_configured_reaches_the_optimizer() -> None:
    adam = section(optim="adamw_torch", adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    [group] = make_optimizer(adam, nn.Linear(2, 2, bias=False).named_parameters()).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.05, (0.8, 0.95), 1e-6)
    sgd = section(optim="sgd", optim_args="momentum=0.9, nesterov=True")
    [group] = make_optimizer(sgd, nn.Linear(2, 2, bias=False).named_parameters()).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("given", ["speed=3", "momentum=-1"])
def test_options_that_an_optimizer_does_not_have_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"training_args\.optim_args: sgd: "):
        make_optimizer(section(optim="sgd", optim_args=given), nn.Linear(2, 2).named_parameters())


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0, 100, 0), (0.03, 100, 3), (0.03, 101, 4), (1, 100, 1), (30, 100, 30), (0.5, 3, 2)],
)
def test_a_warm_up_below_1_is_a_share_of_the_run_rounded_up(warmup: float, total: int, steps: int) -> None:
    assert count_steps(warmup, total) == steps


def rates(total: int, **fields: Any) -> list[float]:
    """The learning rate of each step, relative to the highest."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(Schedule(**fields), optimizer, total)
    found = []
    for _ in range(total):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    assert rates(10, warmup_steps=0.2) == pytest.approx(
        [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cosine", {"num_cycles": 0.5}),
        ("cosine_with_restarts", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("inverse_sqrt", {}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 3}),
    ],
)
def test_every_schedule_runs(kind: str, options: dict[str, Any]) -> None:
    found = rates(10, lr_scheduler_type=kind, lr_scheduler_kwargs=options, warmup_steps=2)
    assert len(found) == 10
    assert all(0 <= rate <= 1 + 1e-9 for rate in found)
    assert max(found) == pytest.approx(1, abs=0.2)

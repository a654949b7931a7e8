"""Nothing that is not finite reaches the weights, whoever updates them, in whichever process it arose."""

import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.parallel.conftest import SHARED, state_of
from tests.parallel.test_deaths import train
from tests.ranks import Ranks
from tests.tiers import by_tier

SPOILED = 3  # the step; only the first process has a conversation in it, and so a gradient


def spoil_the_loss(rank: int) -> None:
    """Let the loss of one step be infinite in one process, and the gradient what it was."""
    from finetune import world
    from finetune.train.parallel import group

    real, calls = group.total, []

    def total(number: float) -> float:
        if isinstance(number, bool):  # whether to stop, not a loss
            return real(number)
        calls.append(number)
        spoiled = len(calls) == SPOILED and world.rank() == rank
        return real(math.inf if spoiled else number)

    group.total = total


def spoil_a_gradient(rank: int) -> None:
    """Let the gradient of one step be NaN in one process, and the loss what it was."""
    from finetune import world
    from finetune.model.head import SupervisedLoss

    real, calls = SupervisedLoss.forward, []

    def forward(self: SupervisedLoss, batch: object) -> torch.Tensor:
        loss = real(self, batch)
        if self.training:
            calls.append(batch)
            if len(calls) == SPOILED and world.rank() == rank:
                loss.register_hook(lambda gradient: gradient * math.nan)
        return loss

    SupervisedLoss.forward = forward


@pytest.mark.parametrize(
    ("back_end", "spoil", "method"),
    by_tier(
        itertools.product(SHARED, [spoil_the_loss, spoil_a_gradient], ["lora", "full"]),
        [
            ("zero-2", spoil_the_loss, "full"),
            ("fsdp2", spoil_a_gradient, "full"),
        ],
    ),
)
def test_a_step_that_is_not_finite_in_one_process_is_applied_in_none(
    back_end: str,
    spoil: Callable[[int], None],
    method: str,
    small: Path,
    ragged: Path,
    tmp_path: Path,
    configured: Callable[..., Path],
) -> None:
    options = {"max_steps": 4, "save_steps": 1, "save_total_limit": 9, "method": method}
    skipping = configured(back_end, "skip", run={"on_nonfinite": "skip"}, **options)
    with Ranks(partial(train, ragged, small, skipping, None, partial(spoil, 0))) as ranks:
        ended = ranks.join()
    assert [one.code for one in ended] == [0, 0], ended[0].said
    assert f"step {SPOILED}:" in ended[0].said and "train.jsonl:" in ended[0].said
    assert json.loads((tmp_path / "skip" / "run.json").read_text())["result"]["skipped_steps"] == 1
    steps = [state_of(tmp_path / "skip" / f"checkpoint-{step}") for step in (2, 3, 4)]
    assert all(torch.equal(steps[0][name], steps[1][name]) for name in steps[0]), "the step was applied"
    assert all(tensor.isfinite().all() for tensor in steps[2].values())
    assert not all(torch.equal(steps[1][name], steps[2][name]) for name in steps[0]), "nor was the next one"

    with Ranks(
        partial(train, ragged, small, configured(back_end, "stop", **options), None, partial(spoil, 0))
    ) as ranks:
        ended = ranks.join()
    assert [one.code for one in ended] == [7, 7]
    assert not (tmp_path / "stop" / f"checkpoint-{SPOILED}").exists()

"""What several processes do together, and what each must do by itself."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.config.arguments import Placement
from finetune.data.plan import Step
from finetune.infer.engine import Completion, Sampling
from finetune.train.loop import Loop
from finetune.train.parallel import group
from finetune.train.parallel.shared_engine import SharedEngine
from tests.parallel.conftest import BACK_ENDS, Train, state_of
from tests.ranks import run_ranks

SHARED = [name for name in BACK_ENDS if name != "one process"]


def steps_told(output: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines]


def test_loss_and_norm_of_a_step_are_told_as_one_process_tells_them(train_on: Train) -> None:
    told = {name: steps_told(train_on(name, "lora", name, max_steps=3)) for name in BACK_ENDS}
    for back_end in SHARED:
        assert told[back_end] == [pytest.approx(step, rel=1e-4) for step in told["one process"]], back_end


@pytest.mark.parametrize("back_end", SHARED)
def test_a_step_that_is_not_finite_changes_neither_weights_nor_memory(
    back_end: str, train_on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step has a loss of NaN and a sound gradient, the third a gradient of NaN and a sound loss."""
    take = Loop._take

    def spoilt(loop: Loop, step: Step) -> Any:
        trained: Any = loop.trainee.back_end
        with pytest.MonkeyPatch.context() as patch:
            if step.index == 1:
                update = trained.update
                patch.setattr(
                    trained,
                    "update",
                    lambda *, loss, max_grad_norm: update(loss=math.nan, max_grad_norm=max_grad_norm),
                )
            if step.index == 2:
                accumulate = trained.accumulate
                patch.setattr(
                    trained, "accumulate", lambda batch, scale, *, last: accumulate(batch, math.nan, last=last)
                )
            return take(loop, step)

    monkeypatch.setattr(Loop, "_take", spoilt)
    output = train_on(back_end, "lora", "spoilt", max_steps=3, save_steps=1, run={"on_nonfinite": "skip"})
    assert json.loads((output / "run.json").read_text())["result"]["skipped_steps"] == 2
    first, last = (state_of(output / f"checkpoint-{step}") for step in (1, 3))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_each_process_draws_numbers_of_its_own(train_on: Train) -> None:
    checkpoint = train_on("ddp", "lora", "drawn", max_steps=1) / "checkpoint-1"
    tensors = load_file(checkpoint / "training_state.safetensors")
    assert not torch.equal(tensors["rng/0/cpu"], tensors["rng/1/cpu"])


class _Counting:
    """An engine that answers a prompt with its own tokens."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, batch_size: int = 1
    ) -> list[Completion]:
        self.asked += [list(prompt) for prompt in prompts]
        return [Completion(list(prompt), "stop") for prompt in prompts]


def answer(prompts: list[list[int]], lockstep: bool) -> tuple[list[list[int]], list[list[int]]]:
    group.join(Placement(use_cpu=True))
    engine: Any = _Counting()
    completions = SharedEngine(engine, lockstep=lockstep).generate(prompts, Sampling())
    return engine.asked, [completion.ids for completion in completions]


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("lockstep", [False, True])
def test_every_prompt_is_answered_by_one_process_and_all_get_the_answer(lockstep: bool, count: int) -> None:
    prompts = [[number] * (1 + number * 3 % 5) for number in range(count)]
    (first, got), (second, got_too) = run_ranks(partial(answer, prompts, lockstep))
    assert got == got_too == prompts
    each = -(-count // 2)
    assert len(first) == each and len(second) == (each if lockstep else count - each)
    assert sorted(first + second[: count - each]) == sorted(prompts)

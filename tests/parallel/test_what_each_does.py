"""What several processes do together, and what each must do by itself."""

import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.config.arguments import Placement
from finetune.data.encode import Prompt
from finetune.errors import ConfigError
from finetune.infer.engine import AnswerNumber, Completion, Sampling
from finetune.train.parallel import group
from finetune.train.parallel.shared_engine import SharedEngine
from finetune.train.run import train
from tests.parallel.conftest import SHARED, Train
from tests.ranks import run_ranks
from tests.tiers import by_tier
from tests.train.conftest import LORA, Configure


def steps_told(output: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines]


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["ddp", "fsdp2"]))
def test_loss_and_norm_of_a_step_are_told_as_one_process_tells_them(back_end: str, train_once: Train) -> None:
    alone, together = (steps_told(train_once(name, "lora", max_steps=3)) for name in ("one process", back_end))
    assert together == [pytest.approx(step, rel=1e-4) for step in alone]


def test_each_process_draws_numbers_of_its_own(train_once: Train) -> None:
    checkpoint = train_once("ddp", "lora", max_steps=3) / "checkpoint-3"
    tensors = load_file(checkpoint / "training_state.safetensors")
    assert not torch.equal(tensors["rng/0/cpu"], tensors["rng/1/cpu"])


class _Counting:
    """An engine that answers a prompt with its own tokens."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, batch_size: int, numbers: Sequence[AnswerNumber]
    ) -> list[Completion]:
        assert [prompt.ids[0] for prompt in prompts] == [number.conversation for number in numbers]
        self.asked += [prompt.ids for prompt in prompts]
        return [Completion(prompt.ids, "stop") for prompt in prompts]


def answer(prompts: list[list[int]], lockstep: bool) -> tuple[list[list[int]], list[list[int]]]:
    group.join(Placement(use_cpu=True))
    engine: Any = _Counting()
    completions = SharedEngine(engine, lockstep=lockstep).generate([Prompt(ids) for ids in prompts], Sampling())
    return engine.asked, [completion.ids for completion in completions]


@pytest.mark.parametrize(
    ("lockstep", "count"),
    by_tier(itertools.product([False, True], [1, 4, 5]), [(False, 1), (False, 5), (True, 1), (True, 5)]),
)
def test_every_prompt_is_answered_by_one_process_and_all_get_the_answer(lockstep: bool, count: int) -> None:
    prompts = [[number] * (1 + number * 3 % 5) for number in range(count)]
    (first, got), (second, got_too) = run_ranks(partial(answer, prompts, lockstep))
    assert got == got_too == prompts
    each = -(-count // 2)
    assert len(first) == each and len(second) == (each if lockstep else count - each)
    assert sorted(first + second[: count - each]) == sorted(prompts)


def test_a_single_process_that_offloads_cannot_begin_a_step_anew(
    small: Path, data: Path, configure: Configure
) -> None:
    offload = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    with pytest.raises(ConfigError, match=r"run\.auto_fit: DeepSpeed cannot begin a step anew"):
        train(data, str(small), configure(LORA, deepspeed=offload), overrides=["run.auto_fit=true"])

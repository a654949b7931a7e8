"""What several processes do together, and what each must do by itself."""

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
from tests.parallel.conftest import BACK_ENDS, Train
from tests.ranks import run_ranks
from tests.train.conftest import LORA, Configure

SHARED = [name for name in BACK_ENDS if name != "one process"]


def steps_told(output: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines]


def test_loss_and_norm_of_a_step_are_told_as_one_process_tells_them(train_on: Train) -> None:
    told = {name: steps_told(train_on(name, "lora", name, max_steps=3)) for name in BACK_ENDS}
    for back_end in SHARED:
        assert told[back_end] == [pytest.approx(step, rel=1e-4) for step in told["one process"]], back_end


def test_each_process_draws_numbers_of_its_own(train_on: Train) -> None:
    checkpoint = train_on("ddp", "lora", "drawn", max_steps=1) / "checkpoint-1"
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


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("lockstep", [False, True])
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

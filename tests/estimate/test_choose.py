"""What a run decides for itself is the fastest that fits, and the change that is offered fits too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.estimate.choose import budgets, choose, fits, intervals, told
from finetune.estimate.memory import memory_of
from finetune.estimate.remedies import smallest_change
from finetune.estimate.setup import Setup
from finetune.estimate.shape import read_shape
from finetune.estimate.story import estimate
from finetune.estimate.work import Work
from tests.estimate.test_counts import METHODS, config_of

WORK = Work(
    conversations=1000,
    tokens=300_000,
    longest=400,
    supervised=0.5,
    conversation_tokens=300,
    span=320,
    step_tokens=10_000,
)


def setup_of(small: Path, method: str = "lora", ranks: int = 1, **training_args: Any) -> Setup:
    config = config_of(METHODS[method], training_args=training_args)
    return Setup.of(config, read_shape(small), device="cpu", ranks=ranks)


def needed(setup: Setup, tokens: int) -> int:
    return memory_of(setup, WORK.load(tokens)).total


def test_the_largest_budget_that_fits_is_taken(small: Path) -> None:
    setup = setup_of(small)
    for tokens in (2048, 1024, 512):
        free = int(needed(setup, tokens) / 0.9) + 1
        choice = choose(setup, WORK, free, tokens=None, may_recompute=True)
        assert (choice.tokens, choice.recompute, choice.fits) == (tokens, 0, True)


def test_a_budget_holds_the_longest_example() -> None:
    assert budgets("cpu", WORK) == [2048, 1024, 512, 400]
    assert budgets("cpu", replace(WORK, longest=5000)) == [5000]


def test_as_few_layers_as_fit_needs_are_recomputed(small: Path) -> None:
    setup = setup_of(small)
    setup = replace(setup, shape=replace(setup.shape, layers=8))
    for every in intervals(8):
        free = int(needed(replace(setup, recompute=every), 400) / 0.9) + 1
        choice = choose(setup, WORK, free, tokens=None, may_recompute=True)
        assert (choice.tokens, choice.recompute, choice.fits) == (400, every, True)
        assert not choose(setup, WORK, free, tokens=None, may_recompute=False).fits
        assert any("gradient_checkpointing" in line for line in told(setup, choice, free, chosen=True))


def test_intervals_leave_out_what_recomputes_as_many_layers() -> None:
    assert intervals(8) == [8, 4, 3, 2, 1]
    assert intervals(1) == [1]


def test_each_part_shrinks_where_processes_share_it(small: Path) -> None:
    whole = {"training_args": {"deepspeed": "ds_zero_2.json"}}
    alone = memory_of(setup_of(small, "full"), WORK.load(512)).parts
    setup = setup_of(small, "full", ranks=4)
    for sharing, shared in (
        ("zero-1", {"optimizer"}),
        ("zero-2", {"optimizer", "gradients"}),
        ("fsdp2", {"optimizer", "gradients", "weights"}),
    ):
        parts = memory_of(replace(setup, sharing=sharing), WORK.load(512)).parts
        assert {name for name in alone if parts[name] * 4 <= alone[name] + 4} == shared, whole


@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
@pytest.mark.parametrize("share", [0.98, 0.95, 0.9])
def test_the_change_that_is_offered_fits_when_it_is_made(
    method: str, share: float, small: Path, tmp_path: Path
) -> None:
    """Where it is one that a YAML can state, the estimate of the changed YAML says so too."""
    (tmp_path / "train.jsonl").touch()
    path = tmp_path / "config.yaml"
    peft = METHODS[method]
    lines = ["data_config: {train_file: train.jsonl}", "run: {tokens_per_micro_batch: 4096}"]
    path.write_text("\n".join(lines + ([] if peft is None else [f"peft_config: {peft}".replace("'", "")])))
    fixed = ["training_args.per_device_train_batch_size=64", "training_args.gradient_checkpointing=false"]
    before = estimate(str(small), path, fixed, gpu="100GB")
    free = str(int(before.choice.memory.total * share / 0.9))
    found = estimate(str(small), path, fixed, gpu=free)
    assert not found.choice.fits
    if found.change is None:
        return
    changes = [change.replace(": ", "=", 1) for change in found.change.split(" with ") if ": " in change]
    after = estimate(str(small), path, [*fixed, *changes], gpu=free)
    assert after.choice.fits, found.change


def test_what_nothing_helps_is_said_to_be_so(small: Path) -> None:
    setup = setup_of(small)
    assert smallest_change(setup, WORK, 1000, 2048) is None
    assert not fits(memory_of(setup, WORK.load(1)), 1000)

"""Turns with weights have the same gradient whoever computes it: one process, copies, or shares."""

import json
from pathlib import Path

import pytest

from tests.parallel.conftest import Train, difference, state_of
from tests.tiers import by_tier

ROUNDING = 2e-6  # relative, in float32


@pytest.mark.parametrize("back_end", by_tier(["ddp", "zero-3", "fsdp2"], ["ddp"]))
def test_weights_are_added_up_over_all_processes(back_end: str, train_on: Train, ragged: Path) -> None:
    rows = [json.loads(line) for line in (ragged / "train.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][1]["weight"] = [0.25, 1, 2.5][number % 3]
    (ragged / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = {"adam_beta1": 0.0, "max_grad_norm": 0.0, "max_steps": 1}
    single = {"run": {}, "model": {"attention": "single"}}
    packed = {"run": {"tokens_per_micro_batch": 48}, "model": {"attention": "flat"}}
    alone = state_of(train_on("one process", "lora", "cell", "no", **single, **arguments) / "checkpoint-1")
    together = state_of(train_on(back_end, "lora", "cell", "no", **packed, **arguments) / "checkpoint-1")
    moments = [{n: t for n, t in state.items() if n.endswith("/exp_avg")} for state in (alone, together)]
    assert difference(*moments) < ROUNDING

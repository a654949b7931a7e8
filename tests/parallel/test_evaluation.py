"""Several processes evaluate together: each answer is written once, and the scores are those of one process."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.conftest import METHODS, SHARED, Train
from tests.tiers import by_tier

EVALUATION = {
    "max_steps": 2,
    "save_strategy": "no",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "predict_with_generate": True,
    "per_device_eval_batch_size": 2,  # of 7 turns: four to one process, three to the other
    "generation_config": {"max_new_tokens": 6},
}


def told(output: Path) -> tuple[list[Any], list[dict[str, float]]]:
    """The predictions, and the evaluations on the way."""
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines], [line for line in metrics if "eval_loss" in line]


@pytest.mark.parametrize(
    ("method", "back_end"),
    by_tier(itertools.product(METHODS, SHARED), [("lora", "ddp"), ("full", "fsdp2")]),
)
def test_predictions_and_scores_are_those_of_one_process(method: str, back_end: str, train_once: Train) -> None:
    expected, scores = told(train_once("one process", method, test=True, **EVALUATION))
    assert len(expected) == 7 and len(scores) == 2
    predictions, shared = told(train_once(back_end, method, test=True, **EVALUATION))
    assert predictions == expected
    for one, other in zip(scores, shared, strict=True):
        assert other == pytest.approx(one, rel=1e-5)

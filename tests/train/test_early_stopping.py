"""Early stopping: when it stops, that a resumed run stops where it would have, and that all processes stop."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.config.sections import EarlyStopping
from finetune.errors import ConfigError
from finetune.train.early_stopping import note_evaluation, why_stop
from finetune.train.position import Position
from finetune.train.run import train
from tests.train.conftest import LORA, Configure

# losses of evaluation 1, 2, … -> the evaluation after which the run ends (None: never)
STOPS: list[tuple[int, float, list[float], int | None]] = [
    (1, 0.0, [3, 2, 1], None),
    (1, 0.0, [3, 2, 2], 3),
    (2, 0.0, [3, 2, 2.5, 1.9, 2, 2], 6),
    (2, 0.0, [3, 4, 5], 3),
    (2, 0.5, [3, 2.8, 2.6, 1], 3),  # the best moves to 2.8: two gains of 0.2 are none
    (2, 0.5, [3, 2.8, 2.2, 2.1, 2.0], 5),
    (1, 0.0, [3, math.nan], 2),
]


@pytest.mark.parametrize(("patience", "threshold", "losses", "stops"), STOPS)
@pytest.mark.parametrize("sign", [1, -1], ids=["lower is better", "higher is better"])
def test_it_stops_after_so_many_evaluations_without_a_gain(
    sign: int, patience: int, threshold: float, losses: list[float], stops: int | None
) -> None:
    assert _stopped(patience, threshold, [sign * loss for loss in losses], sign == -1) == stops


@pytest.mark.parametrize(("patience", "threshold", "losses", "stops"), STOPS[:-1])
def test_it_stops_where_transformers_does(
    patience: int, threshold: float, losses: list[float], stops: int | None, tmp_path: Path
) -> None:
    callback = EarlyStoppingCallback(patience, threshold)
    arguments = TrainingArguments(tmp_path, greater_is_better=False, metric_for_best_model="loss")
    state, stopped = TrainerState(), None
    for number, loss in enumerate(losses, 1):
        control = TrainerControl()
        callback.on_evaluate(arguments, state, control, {"eval_loss": loss})
        if control.should_training_stop:
            stopped = number
            break
        state.best_metric = loss if state.best_metric is None else min(loss, state.best_metric)
    assert stopped == stops


def _stopped(patience: int, threshold: float, values: list[float], higher_is_best: bool) -> int | None:
    section, position = EarlyStopping(patience=patience, threshold=threshold), Position()
    for position.step, value in enumerate(values, 1):
        note_evaluation(position, value, threshold, higher_is_best=higher_is_best)
        if why_stop(section, position, "eval_loss") is not None:
            return position.step
    return None


# At this rate the loss on held-out data rises after a few steps.
OVERFITS: dict[str, Any] = {
    "max_steps": 40,
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
}
STOPPING = ["run.early_stopping={patience: 3}"]


def test_a_run_stops_early_says_why_and_keeps_the_best_weights(
    small: Path, data: Path, configure: Configure
) -> None:
    output = train(data, str(small), configure(LORA, **OVERFITS), overrides=STOPPING)
    result = json.loads((output / "run.json").read_text())["result"]
    losses = evaluations(output)
    best = min(losses, key=lambda step: losses[step])
    assert result["steps"] == best + 6 < 40  # three evaluations, two steps apart
    assert result["best_checkpoint"] == f"checkpoint-{best}"
    assert result["stopped_early"].startswith(
        f"stopped early at step {best + 6}: eval_loss has not improved for 3 evaluations; its best was"
    )
    # dev.jsonl is the test file, too: what is tested are the best weights, not the last
    assert result["evaluation"]["loss"] == pytest.approx(losses[best], abs=1e-6)
    assert "Stopped early at step" in (output / "report.html").read_text()
    assert (output / f"checkpoint-{best + 6}").is_dir()


def test_a_resumed_run_stops_at_the_same_step_with_the_same_bits(
    small: Path, data: Path, configure: Configure
) -> None:
    straight = train(data, str(small), configure(LORA, "straight", **OVERFITS), overrides=STOPPING)
    end = json.loads((straight / "run.json").read_text())["result"]["steps"]
    broken = configure(LORA, "broken", **OVERFITS)
    output = train(data, str(small), broken, overrides=STOPPING)
    # from a checkpoint in the middle of the wait for a better evaluation
    train(data, str(small), broken, resume=str(end - 4), overrides=STOPPING)
    assert last_state(output, end) == last_state(straight, end)
    assert evaluations(output) == evaluations(straight)
    # a run that has stopped stays so, unless it is given more patience
    train(data, str(small), broken, resume="yes", overrides=STOPPING)
    assert json.loads((output / "run.json").read_text())["result"]["steps"] == end
    train(data, str(small), broken, resume="yes", overrides=["run.early_stopping={patience: 4}"])
    assert json.loads((output / "run.json").read_text())["result"]["steps"] > end


def evaluations(output: Path) -> dict[int, float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def last_state(output: Path, step: int) -> dict[str, bytes]:
    checkpoint = output / f"checkpoint-{step}"
    counters = (checkpoint / "training_state.json").read_bytes()
    tensors = load_file(checkpoint / "training_state.safetensors")
    return {"counters": counters} | {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_early_stopping_without_evaluations_is_refused(small: Path, data: Path, configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"run\.early_stopping.*: looks at evaluations, and there are none"):
        train(data, str(small), configure(LORA), overrides=STOPPING)

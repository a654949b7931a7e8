"""Numbers that are not finite never reach a weight: the run stops, or leaves the step out, and names rows."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune.chat.load import load_template
from finetune.folder import checkpoints, verify
from finetune.model import load as model_loading
from tests.faults.runs import METHODS, Run, numbers
from tests.tiers import by_tier
from tests.train.conftest import LORA, Configure

SPOILT = {"messages": [{"role": "user", "content": "say Q"}, {"role": "assistant", "content": "bird"}]}
"""The one conversation that holds a Q; row 13 of train.jsonl."""


def trained(checkpoint: Path) -> dict[str, bytes]:
    """Weights and optimizer as a checkpoint has them; not the random state, which a step draws from."""
    tensors = load_file(checkpoint / "training_state.safetensors")
    return {name: t.numpy().tobytes() for name, t in tensors.items() if not name.startswith("rng/")}


def told(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.output / "run.json").read_text())
    return content


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base with NaN is refused before a run; here it stands for a model that gives NaN later."""
    monkeypatch.setattr(model_loading, "refuse_nonfinite", lambda model, loaded: None)


@pytest.fixture
def spoilt(small: Path, data: Path, tmp_path: Path, unchecked: None) -> Path:
    """The small model with NaN as the embedding of Q, and a row that uses it."""
    with (data / "train.jsonl").open("a") as file:
        file.write(json.dumps(SPOILT) + "\n")
    token = load_template(small).tokenizer.encode("Q", add_special_tokens=False)[-1]
    folder = shutil.copytree(small, tmp_path / "spoilt")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def broken(small: Path, tmp_path: Path, unchecked: None) -> Path:
    """The small model with one NaN in its last layer: no loss is finite."""
    folder = shutil.copytree(small, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora"]))
def test_a_row_that_gives_nan_stops_the_run_before_its_update_and_is_named(
    method: str, spoilt: Path, data: Path, configure: Configure
) -> None:
    arguments = {"max_steps": 12, "save_steps": 1, "lr_scheduler_type": "constant"}
    run = Run(data, spoilt, configure(METHODS[method], method, **arguments), data.parent / method)
    for resume in ("yes", "yes"):  # and the same again
        child = run.start(resume)
        assert child.wait() == 7, child.said[-3000:]
        error = child.said[child.said.rindex("error: ") :]
        step = int(re.search(r"step (\d+): loss nan, gradient norm nan: not finite, not applied", error)[1])
        rows = re.findall(r"train\.jsonl:(\d+)", error)
        assert "13" in rows and len(rows) <= 4
        assert "Traceback" not in child.said
        assert told(run)["exit_code"] == 7
        assert [line["loss"] for line in numbers(run.output)][step - 1 :] == [], "its loss is no result"
        assert [path.name for path in checkpoints(run.output)][:1] == (
            [f"checkpoint-{step - 1}"] if step > 1 else []
        )
    assert step > 1, "a seed for which the row comes later is needed"
    undisturbed = configure(METHODS[method], f"{method}-short", **(arguments | {"max_steps": step - 1}))
    short = Run(data, spoilt, undisturbed, data.parent / f"{method}-short").finished()
    ended, wanted = (trained(verified(run.output / f"checkpoint-{step - 1}")) for run in (run, short))
    assert ended == wanted


def verified(checkpoint: Path) -> Path:
    verify(checkpoint)
    return checkpoint


def test_a_step_left_out_changes_no_weight_and_no_memory_of_the_optimizer(
    spoilt: Path, data: Path, configure: Configure
) -> None:
    config = configure(LORA, max_steps=12, save_steps=1)
    config.write_text(f"{config.read_text()}run: {{on_nonfinite: skip}}\n")
    run = Run(data, spoilt, config, data.parent / "out").finished()
    steps = [line["step"] for line in numbers(run.output) if line["loss"] is None]
    assert len(steps) == 3, "the row comes once in each of three epochs"
    for step in steps:
        before, after = (trained(verified(run.output / f"checkpoint-{s}")) for s in (step - 1, step))
        assert before == after
    changing = next(step for step in range(2, 12) if step not in steps)
    assert trained(run.output / f"checkpoint-{changing}") != trained(run.output / f"checkpoint-{changing - 1}")
    assert told(run)["result"]["skipped_steps"] == 3
    said = run.log.read_text()
    assert said.count("not finite, not applied") == said.count("; skipped") == 3
    assert all("train.jsonl:13" in line for line in said.splitlines() if "; skipped" in line)


def test_a_base_that_gives_only_nan_is_not_skipped_for_ever(
    broken: Path, data: Path, configure: Configure
) -> None:
    config = configure(LORA, max_steps=30, save_steps=4)
    config.write_text(f"{config.read_text()}run: {{on_nonfinite: skip}}\n")
    run = Run(data, broken, config, data.parent / "out")
    for _ in range(2):  # what was skipped before a resume counts
        child = run.start()
        assert child.wait() == 7, child.said[-3000:]
        assert re.search(r"step 11: .*more than 10 steps were skipped, this run diverges", child.said)
        assert checkpoints(run.output)[0].name == "checkpoint-8"
    untouched = load_file(run.output / "checkpoint-8" / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in untouched.items() if "lora_B" in name)


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora"]))
def test_a_base_that_gives_only_nan_stops_before_anything_is_saved(
    method: str, broken: Path, data: Path, configure: Configure
) -> None:
    run = Run(data, broken, configure(METHODS[method], method, save_steps=1), data.parent / method)
    child = run.start()
    assert child.wait() == 7, child.said[-3000:]
    assert re.search(r"step 1: loss nan.*not finite, not applied \(.*train\.jsonl:\d+", child.said)
    assert checkpoints(run.output) == [] and "Traceback" not in child.said


def test_a_learning_rate_that_blows_up_stops_with_the_last_finite_weights_saved(
    small: Path, data: Path, configure: Configure
) -> None:
    wild: dict[str, Any] = {
        "learning_rate": 1e12,
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "save_steps": 1,
        "max_steps": 9,
        "lr_scheduler_type": "constant",
    }
    run = Run(data, small, configure(None, "wild", **wild), data.parent / "wild")
    child = run.start()
    assert child.wait() == 7, child.said[-3000:]
    step = int(re.search(r"step (\d+): .*not finite, not applied \(.*train\.jsonl:\d+", child.said)[1])
    last = verified(checkpoints(run.output)[0])
    assert last.name == f"checkpoint-{step - 1}"
    assert all(
        t.isfinite().all()
        for t in load_file(last / "training_state.safetensors").values()
        if t.is_floating_point()
    )
    short = Run(
        data, small, configure(None, "short", **(wild | {"max_steps": step - 1})), data.parent / "short"
    )
    assert trained(last) == trained(short.finished().output / last.name)

"""Whole runs on a real small model: what they leave behind, and how they go on."""

import json
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from finetune.errors import (
    CheckpointError,
    DataError,
    FolderInUseError,
    ModelError,
    Preempted,
    ResumeMismatchError,
    TrainingError,
)
from finetune.model.batch import Batch
from finetune.model.head import SupervisedLoss
from finetune.train.checkpoint.rng import restore_rng
from finetune.train.loop import Loop
from finetune.train.run import rerun, train
from tests.tiers import by_tier
from tests.train.conftest import LORA, PREFIX, Configure

METHODS: dict[str, dict[str, Any] | None] = {"lora": LORA, "prefix": PREFIX, "full": None}


def state(checkpoint: Path) -> dict[str, bytes]:
    """Every tensor of the training state as bytes."""
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in load_file(checkpoint / "training_state.safetensors").items()
    }


def run_json(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "run.json").read_text())
    return content


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_a_folder_that_tells_it_all(
    method: str, small: Path, data: Path, configure: Configure
) -> None:
    config = configure(METHODS[method], eval_strategy="steps", eval_steps=3, predict_with_generate=True)
    output = train(data, str(small), config)
    run = run_json(output)
    assert (run["status"], run["exit_code"]) == ("done", 0)
    assert run["data"][0]["ledger"]["rows"] == run["data"][0]["ledger"]["trained"] == 12
    assert run["plan"]["conversations_per_step"] == 4
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6]
    predictions = (output / "predictions.jsonl").read_text().splitlines()
    assert len(predictions) == 6  # 4 conversations, 2 with two turns
    assert {"rouge-1", "rouge-2", "rouge-l", "bleu-4"} <= run["result"]["evaluation"]["scores"].keys()
    assert "<svg" in (output / "report.html").read_text()
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora", "prefix"]))
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(
    method: str, small: Path, data: Path, configure: Configure
) -> None:
    arguments: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "predict_with_generate": True}
    straight = train(data, str(small), configure(METHODS[method], "straight", **arguments))
    broken = configure(METHODS[method], "broken", **arguments)
    output = train(data, str(small), broken, overrides=["training_args.max_steps=6"])
    resumed = train(data, str(small), broken, resume="3")
    assert resumed == output
    assert state(resumed / "checkpoint-6") == state(straight / "checkpoint-6")


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora"]))
def test_the_budget_and_the_layout_do_not_change_a_step(
    method: str, small: Path, data: Path, configure: Configure
) -> None:
    peft = {**LORA, "lora_dropout": 0.0} if method == "lora" else METHODS[method]
    weights = []
    for name, overrides in {
        "wide": [],
        "narrow": ["run.tokens_per_micro_batch=40"],
        "single": ["model_config.attention=single"],
    }.items():
        output = train(data, str(small), configure(peft, name, max_steps=1, optim="sgd"), overrides=overrides)
        weights.append(load_file(output / "checkpoint-1" / "training_state.safetensors"))
    for other in weights[1:]:
        for name in (name for name in weights[0] if name.startswith("trainable/")):
            assert (weights[0][name] - other[name]).abs().max() <= 1e-7, name


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora"]))
def test_gradient_checkpointing_changes_no_gradient_or_is_refused(
    method: str, small: Path, data: Path, configure: Configure
) -> None:
    if method == "prefix":
        with pytest.raises(Exception, match="gradient_checkpointing"):
            train(data, str(small), configure(PREFIX, gradient_checkpointing=True))
        return
    peft = None if method == "full" else {**LORA, "lora_dropout": 0.0}
    plain, saved = (
        load_file(
            train(
                data,
                str(small),
                configure(peft, f"gc{on}", max_steps=1, optim="sgd", gradient_checkpointing=on),
            )
            / "checkpoint-1"
            / "training_state.safetensors"
        )
        for on in (False, True)
    )
    for name in (name for name in plain if name.startswith("trainable/")):
        assert (plain[name] - saved[name]).abs().max() <= 1e-7, name


def test_resume_takes_yes_no_a_number_and_a_path(small: Path, data: Path, configure: Configure) -> None:
    config = configure(LORA)
    output = train(data, str(small), config)
    with pytest.raises(FolderInUseError, match=r"yes.*no"):
        train(data, str(small), config)
    with pytest.raises(CheckpointError, match="there are: 3, 6"):
        train(data, str(small), config, resume="4")
    longer = configure(LORA, max_steps=8)
    train(data, str(small), longer, resume="YES")
    assert (output / "checkpoint-8").is_dir()
    train(data, str(small), longer, resume=str(output / "checkpoint-6"))
    train(data, str(small), longer, resume="no")
    assert sorted(path.name for path in output.glob("old-*/checkpoint-*"))
    assert run_json(output)["plan"]["started_at_step"] == 0


def test_a_resume_under_other_settings_is_refused_and_changes_nothing(
    small: Path, data: Path, configure: Configure
) -> None:
    output = train(data, str(small), configure(LORA))
    before = sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*") if path.name != ".lock")
    with pytest.raises(ResumeMismatchError, match=r"learning_rate: 0\.01 in the checkpoint, 0\.02 now"):
        train(data, str(small), configure(LORA, learning_rate=0.02), resume="yes")
    (data / "train.jsonl").write_text((data / "train.jsonl").read_text() + "\n")
    with pytest.raises(ResumeMismatchError, match="data"):
        train(data, str(small), configure(LORA), resume="yes")
    after = sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*") if path.name != ".lock")
    assert after == before


def test_dropout_acts_in_training_and_an_evaluation_does_not_switch_it_off(
    small: Path, data: Path, configure: Configure
) -> None:
    def trained(dropout: float, evaluates: bool) -> dict[str, bytes]:
        config = configure(
            {**LORA, "lora_dropout": dropout}, f"{dropout}-{evaluates}", max_steps=1, eval_on_start=evaluates
        )
        found = state(train(data, str(small), config) / "checkpoint-1")
        return {name: value for name, value in found.items() if name.startswith("trainable/")}

    assert trained(0.5, evaluates=True) == trained(0.5, evaluates=False) != trained(0.0, evaluates=True)


def test_a_run_that_no_gradient_reaches_is_refused_at_its_first_step(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    deaf = shutil.copytree(small, tmp_path / "deaf")
    weights = load_file(deaf / "model.safetensors")
    weights["model.norm.weight"][:] = 0  # all logits are zero, whatever an adapter adds
    save_file(weights, deaf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="zero at step 1: nothing would be learnt"):
        train(data, str(deaf), configure(LORA))


def test_a_run_that_changed_a_frozen_weight_fails_and_names_it(
    small: Path, data: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(loop: Loop) -> None:
        next(p for n, p in loop.trainee.tuned.frozen() if "down_proj" in n).data[0, 0] += 1

    monkeypatch.setattr(Loop, "_leave_if_asked", spoil)
    with pytest.raises(TrainingError, match=r"layers\.0\.mlp\.down_proj\S*: these weights are frozen"):
        train(data, str(small), configure(LORA, max_steps=1))


def test_a_rerun_gives_the_same_weights_and_refuses_other_data(
    small: Path, data: Path, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    output = train(Path(data.name), str(small), configure(LORA))  # a relative path, as people type it
    again = rerun(output, tmp_path / "again")
    assert state(again / "checkpoint-6") == state(output / "checkpoint-6")
    rows = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[1:]))
    with pytest.raises(DataError, match=r"train.jsonl: has changed since the run that is to be repeated"):
        rerun(output, tmp_path / "third")


def test_a_signal_saves_and_the_resumed_run_ends_as_if_nothing_had_been(
    small: Path, data: Path, configure: Configure
) -> None:
    straight = train(data, str(small), configure(LORA, "straight", max_steps=40, save_steps=40))
    config = configure(LORA, "stopped", max_steps=40, save_steps=40)
    command = [sys.executable, "-m", "finetune", "train", str(data), str(small), str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == Preempted.exit_code, rest
    assert "Traceback" not in rest and "yes" in rest
    output = config.parent / "stopped"
    assert run_json(output)["status"] == "preempted"
    train(data, str(small), config, resume="yes")
    assert state(output / "checkpoint-40") == state(straight / "checkpoint-40")


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_rows(
    small: Path, data: Path, configure: Configure
) -> None:
    config = configure(None, learning_rate=1e30, max_grad_norm=0.0, optim="sgd", save_steps=1)
    with pytest.raises(TrainingError, match=r"not finite, not applied \(.*train\.jsonl:\d+"):
        train(data, str(small), config)
    output = config.parent / "out"
    assert run_json(output)["exit_code"] == 7
    assert list(output.glob("checkpoint-*"))


def test_the_best_checkpoint_is_kept_and_becomes_the_result(
    small: Path, data: Path, configure: Configure
) -> None:
    output = train(
        data,
        str(small),
        configure(
            LORA,
            eval_strategy="steps",
            eval_steps=2,
            save_steps=2,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
        ),
    )
    run = run_json(output)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert run["result"]["best_checkpoint"] == f"checkpoint-{best}"
    assert run["result"]["evaluation"]["loss"] == pytest.approx(losses[best], rel=1e-6)


def test_a_token_that_the_model_does_not_know_is_refused_before_the_weights_are_loaded(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    folder = shutil.copytree(small, tmp_path / "narrow")
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"vocab_size": 100}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"token \d+: the model has embeddings for 0 to 99"):
        train(data, str(folder), configure(LORA))


def test_a_model_with_soft_capped_attention_trains_and_talks(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = shutil.copytree(small, tmp_path / "gemma2")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
    Gemma2ForCausalLM(Gemma2Config(**shape, **heads)).save_pretrained(folder)
    output = train(data, str(folder), configure(LORA, predict_with_generate=True))
    assert run_json(output)["plan"]["layout"] == "single"
    assert run_json(output)["result"]["evaluation"]["loss"] > 0


def test_more_than_the_memory_holds_is_told_with_the_ways_out(
    small: Path, data: Path, configure: Configure
) -> None:
    huge = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 10**12}
    with pytest.raises(
        ModelError, match=r"out of memory loading the model; set model_config\.quantization: nf4"
    ):
        train(data, str(small), configure(huge))


def test_a_page_that_cannot_be_written_does_not_hide_why_the_run_ended(
    small: Path, data: Path, configure: Configure
) -> None:
    config = configure(None, learning_rate=1e30, max_grad_norm=0.0, optim="sgd")
    (config.parent / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(TrainingError, match="not finite"):
        train(data, str(small), config)


def test_a_run_that_keeps_nothing_says_so_before_it_trains(
    small: Path, data: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(data, str(small), configure(LORA, save_strategy="no", max_steps=1))
    assert not list(output.glob("checkpoint-*"))
    said = capsys.readouterr().err
    assert said.index("what is learnt is not kept") < said.index("step 1/1")


def test_a_failed_attempt_lets_go_of_its_tensors_before_the_next_one(
    small: Path, data: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hang on the error, through its traceback: kept, they fill the memory that the next one needs."""
    forward, attempts, held = SupervisedLoss.forward, [], []

    def short_of_memory(self: SupervisedLoss, batch: Batch) -> torch.Tensor:
        if not attempts:
            activations = torch.zeros(1000)
            attempts.append(weakref.ref(activations))
            torch.empty(10**16)
        return forward(self, batch)

    def begin_anew(drawn: Any) -> bool:
        held.append(attempts[0]() is not None)
        return restore_rng(drawn)

    monkeypatch.setattr(SupervisedLoss, "forward", short_of_memory)
    monkeypatch.setattr("finetune.train.loop.restore_rng", begin_anew)
    train(data, str(small), configure(LORA, max_steps=1), overrides=["run.auto_fit=true"])
    assert held == [False]

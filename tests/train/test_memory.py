"""What a run decides of its memory by itself: it says so, keeps to it, and the gradient stays what it was."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from finetune.train import session
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX, Configure

GRADIENT = {"adam_beta1": 0.0, "max_grad_norm": 0.0, "max_steps": 1, "save_steps": 1}
"""Adam's first moment is then the gradient itself."""


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`free(bytes)`: what the device is said to have free."""
    return lambda size: monkeypatch.setattr(session, "free_memory", lambda device: size)


def memory_of(output: Path) -> dict[str, Any]:
    memory: dict[str, Any] = json.loads((output / "run.json").read_text())["memory"]
    return memory


def tensors(output: Path, step: int) -> dict[str, Tensor]:
    return load_file(output / f"checkpoint-{step}" / "training_state.safetensors")


def identity(output: Path, step: int) -> dict[str, Any]:
    manifest = json.loads((output / f"checkpoint-{step}" / "manifest.json").read_text())
    found: dict[str, Any] = manifest["identity"]
    return found


def test_a_run_compares_what_was_estimated_with_what_it_took(
    data: Path, small: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(data, str(small), configure(LORA))
    memory = memory_of(output)
    assert memory["estimated_bytes"] == sum(memory["parts"].values())
    assert memory["measured_peak_bytes"] > 100_000_000
    said = capsys.readouterr().err
    assert "tokens_per_micro_batch: 2048; estimated memory" in said
    assert "peak memory" in said.splitlines()[-1]
    assert identity(output, 6)["environment"]["tokens_per_micro_batch"] == 2048
    assert identity(output, 6)["recompute"] == 0


@pytest.mark.parametrize("peft", [LORA, None], ids=["lora", "full"])
def test_layers_are_recomputed_where_nothing_else_fits_and_the_gradient_is_the_same(
    peft: dict[str, Any] | None, data: Path, small: Path, configure: Configure, free: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plain = train(data, str(small), configure(peft, "plain", **GRADIENT))
    free(1000)
    again = train(data, str(small), configure(peft, "again", **GRADIENT))
    assert "gradient_checkpointing: 2 of 2 layers are computed a second time" in capsys.readouterr().err
    assert identity(again, 1)["recompute"] == 1
    one, other = tensors(plain, 1), tensors(again, 1)
    for name in one:
        if name.endswith("/exp_avg"):
            assert (one[name] - other[name]).norm() <= 2e-6 * one[name].norm(), name


def test_every_second_layer_is_recomputed_where_that_is_enough(
    data: Path, small: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(data, str(small), configure(LORA, "plain", **GRADIENT))
    recomputed: list[list[bool]] = []
    from finetune.train import trainee

    keep = trainee._keep_others

    def watch(tuned: Any, every: int) -> None:
        keep(tuned, 2)
        layers = [m for m in tuned.base.modules() if isinstance(m, trainee.GradientCheckpointingLayer)]
        recomputed.append([layer.gradient_checkpointing for layer in layers])

    monkeypatch.setattr(trainee, "_keep_others", watch)
    again = train(data, str(small), configure(LORA, "again", gradient_checkpointing=True, **GRADIENT))
    assert recomputed == [[True, False]]
    for name, gradient in tensors(plain, 1).items():
        if name.endswith("/exp_avg"):
            assert (gradient - tensors(again, 1)[name]).norm() <= 2e-6 * gradient.norm(), name


@pytest.mark.parametrize(
    ("peft", "arguments"), [(PREFIX, {}), (LORA, {"gradient_checkpointing": False})], ids=["prefix", "stated"]
)
def test_what_must_not_be_recomputed_is_not_and_the_run_goes_on_with_a_word(
    peft: dict[str, Any], arguments: dict[str, Any], data: Path, small: Path, configure: Configure, free: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    free(1000)
    output = train(data, str(small), configure(peft, max_steps=1, **arguments))
    assert identity(output, 1)["recompute"] == 0
    assert "this may not fit" in capsys.readouterr().err


@pytest.mark.parametrize("bytes_now", [1000, 10**12], ids=["less is free now", "more is free now"])
def test_a_resumed_run_keeps_what_was_decided_and_gives_the_same_bits(
    bytes_now: int, data: Path, small: Path, configure: Configure, free: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    free(1000 if bytes_now > 1000 else 10**12)
    straight = train(data, str(small), configure(LORA, "straight"))
    stopped = train(data, str(small), configure(LORA, "stopped", max_steps=3, lr_scheduler_type="constant"))
    whole = train(data, str(small), configure(LORA, "whole", lr_scheduler_type="constant"))
    decided = identity(stopped, 3)
    free(bytes_now)
    capsys.readouterr()
    resumed = train(data, str(small), configure(LORA, "stopped", lr_scheduler_type="constant"), resume="yes")
    assert "not to the last bit" not in capsys.readouterr().err
    for key in ("recompute", "environment"):
        assert identity(resumed, 6)[key] == decided[key] == identity(straight, 6)[key]
    one, other = tensors(whole, 6), tensors(resumed, 6)
    assert all(one[name].equal(other[name]) for name in one)


def test_who_states_other_tokens_on_resume_gets_them_and_a_word(
    data: Path, small: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, str(small), configure(LORA, max_steps=3, lr_scheduler_type="constant"))
    capsys.readouterr()
    changed = ["run.tokens_per_micro_batch=40"]
    path = configure(LORA, lr_scheduler_type="constant")
    output = train(data, str(small), path, resume="yes", overrides=changed)
    assert identity(output, 6)["environment"]["tokens_per_micro_batch"] == 40
    said = capsys.readouterr().err
    assert "tokens_per_micro_batch: 2048 in the checkpoint, 40 now: the results will agree" in said


def test_a_model_whose_files_are_not_at_hand_is_trained_without_an_estimate(
    data: Path, small: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.errors import ModelError
    from finetune.train import prepare

    def missing(model: str) -> None:
        raise ModelError("not in the cache")

    monkeypatch.setattr(prepare, "read_shape", missing)
    output = train(data, str(small), configure(LORA, max_steps=1))
    assert list(memory_of(output)) == ["measured_peak_bytes"]
    assert identity(output, 1)["environment"]["tokens_per_micro_batch"] == 2048
